"""The sets that torchvision reads."""

from collections.abc import Callable
from pathlib import Path

from torchvision import datasets

from ..errors import DataError
from .image_set import Entry, ImageSet, one_split


def _reader(kind, train, paths, labels) -> Callable[..., ImageSet]:
    """A builder for a set that torchvision downloads, checks and splits; it keeps its file list in private fields."""

    def build(root, split="train", transform=None):
        try:
            sources = {"train": kind(root, split=train), "test": kind(root, split="test")}
        except (RuntimeError, OSError) as error:
            raise DataError(f"{kind.__name__} in {root} cannot be read ({error}): see torchvision's page on it") from error
        classes = getattr(sources["train"], "classes", None) or [str(c) for c in sorted({*labels(sources["train"])})]
        entries = [
            Entry(number, name, label, Path(path))
            for name, source in sources.items()
            for number, (path, label) in enumerate(zip(paths(source), labels(source), strict=True), 1)
        ]
        return ImageSet(**one_split(Path(root), split, entries, classes), transform=transform)

    return build


# Each with its name of the training split, and where it keeps its files and labels.
TORCHVISION_SETS = {
    "aircraft": _reader(datasets.FGVCAircraft, "trainval", lambda s: s._image_files, lambda s: s._labels),
    "flowers": _reader(datasets.Flowers102, "train", lambda s: s._image_files, lambda s: s._labels),
    "pets": _reader(datasets.OxfordIIITPet, "trainval", lambda s: s._images, lambda s: s._labels),
    "cars": _reader(
        datasets.StanfordCars, "train", lambda s: [p for p, _ in s._samples], lambda s: [t for _, t in s._samples]
    ),
}
