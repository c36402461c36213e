"""The sets that torchvision reads."""

from collections.abc import Callable
from pathlib import Path

from torchvision import datasets

from ..errors import DataError
from .fingerprint import Entry
from .image_set import ImageSet, one_split


def _reader(kind: type, train: str, files: Callable, labels: Callable) -> Callable[..., ImageSet]:
    """A builder for a set that torchvision checks and splits; train: its name of the training split; files, labels: where
    it keeps them, in private fields."""

    def build(root, split="train", transform=None):
        try:
            sources = {"train": kind(root, split=train), "test": kind(root, split="test")}
        except (RuntimeError, OSError) as error:
            raise DataError(f"{kind.__name__} in {root} cannot be read ({error}): see torchvision's page on it") from error
        classes = getattr(sources["train"], "classes", None) or [str(c) for c in sorted({*labels(sources["train"])})]
        entries = [
            Entry(number, name, int(label), Path(path))
            for name, source in sources.items()
            for number, (path, label) in enumerate(zip(files(source), labels(source), strict=True), 1)
        ]
        return ImageSet(**one_split(Path(root), split, entries, classes), transform=transform)

    return build


TORCHVISION_SETS = {
    "aircraft": _reader(datasets.FGVCAircraft, "trainval", lambda s: s._image_files, lambda s: s._labels),
    "flowers": _reader(datasets.Flowers102, "train", lambda s: s._image_files, lambda s: s._labels),
    "pets": _reader(datasets.OxfordIIITPet, "trainval", lambda s: s._images, lambda s: s._labels),
    "cars": _reader(
        datasets.StanfordCars,
        "train",
        lambda s: [path for path, _ in s._samples],
        lambda s: [label for _, label in s._samples],
    ),
}
