"""The sets that torchvision reads."""

from collections.abc import Callable
from pathlib import Path

from torchvision import datasets

from ..errors import DataError
from .fingerprint import Entry
from .image_set import ImageSet, one_split


def _reader(kind: type, train: str, samples: Callable) -> Callable[..., ImageSet]:
    """A builder for a set that torchvision checks and splits.

    train: its name of the training split. samples: gives (file, label) of each image, which it keeps in private fields.
    """

    def build(root, split="train", transform=None):
        try:
            sources = {"train": kind(root, split=train), "test": kind(root, split="test")}
        except (RuntimeError, OSError) as error:
            raise DataError(f"{kind.__name__} in {root} cannot be read ({error}): see torchvision's page on it") from error
        entries = [
            Entry(number, part, int(label), Path(path))
            for part, source in sources.items()
            for number, (path, label) in enumerate(samples(source), 1)
        ]
        return ImageSet(**one_split(Path(root), split, entries, sources["train"].classes), transform=transform)

    return build


TORCHVISION_SETS = {
    "aircraft": _reader(datasets.FGVCAircraft, "trainval", lambda s: zip(s._image_files, s._labels, strict=True)),
    "flowers": _reader(datasets.Flowers102, "train", lambda s: zip(s._image_files, s._labels, strict=True)),
    "pets": _reader(datasets.OxfordIIITPet, "trainval", lambda s: zip(s._images, s._labels, strict=True)),
    "cars": _reader(datasets.StanfordCars, "train", lambda s: s._samples),
}
