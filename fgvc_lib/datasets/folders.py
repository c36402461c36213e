"""A folder of images for each class."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

from ..errors import DataError
from .fingerprint import Entry
from .image_set import SPLITS, ImageSet, one_split
from .photographs import SUFFIXES


def class_folders(root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """A folder for each class, below train/ and test/; or side by side, then every fifth image of a class is for testing.

    Images may lie deeper in a class's folder. Links are followed; hidden files and folders are left out.
    Raises DataError for a folder that is not laid out like this, or a class without images for the split.
    """
    root = Path(root)
    apart = (root / "train").is_dir()
    classes = _folders(root / "train" if apart else root)
    if not classes:
        raise DataError(f"{root} is no folder with a folder of images for each class: name another one")
    if apart and (more := sorted({*_folders(root / "test")} - {*classes})):
        raise DataError(f"{root / 'test'} has classes without training images: {', '.join(more[:5])}")
    entries, numbers = [], {part: count(1) for part in SPLITS}
    for label, name in enumerate(classes):
        if apart:
            files = {part: _images(root / part / name) for part in SPLITS}
        else:
            side_by_side = _images(root / name)
            files = {"test": side_by_side[4::5], "train": [path for i, path in enumerate(side_by_side) if i % 5 != 4]}
        entries += [Entry(next(numbers[part]), part, label, path) for part in SPLITS for path in files[part]]
    images = ImageSet(**one_split(root, split, entries, classes), transform=transform)
    if lacking := set(range(len(classes))) - {*images.labels}:
        folder = (root / split if apart else root) / classes[min(lacking)]
        why = "" if apart else ": without train/ and test/ it takes five images a class"
        raise DataError(f"{folder} has no image for split {split}{why}")
    return images


def _folders(folder):
    return sorted(entry.name for entry in folder.glob("[!.]*") if entry.is_dir())


def _images(folder, seen=None):
    """The image files below a folder, in order. seen: the folders read before: a link back to one of them is a circle."""
    seen = set() if seen is None else seen
    if not folder.is_dir() or folder.resolve() in seen:
        return []
    seen.add(folder.resolve())
    found = []
    for entry in sorted(folder.glob("[!.]*")):
        if entry.is_dir():
            found += _images(entry, seen)
        elif entry.suffix.lower() in SUFFIXES:
            found.append(entry)
    return found
