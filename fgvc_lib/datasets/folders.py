"""A folder of images for each class."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from ..errors import DataError
from .fingerprint import Entry
from .image_set import SPLITS, FolderSplit, ImageSet
from .photographs import SUFFIXES


def class_folders(root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """A folder for each class, below train/ and test/; or side by side, then every fifth image of a class is for testing.

    Images may lie deeper in a class's folder. Links are followed; hidden files and folders are left out.
    Raises DataError for a folder that is not laid out like this, or a class without images for the split.
    """
    root = Path(root)
    apart = (root / "train").is_dir()
    folder = {part: root / part if apart else root for part in SPLITS}
    classes = _folders(folder["train"])
    if not classes:
        raise DataError(f"{root} is no folder with a folder of images for each class: name another one")
    if more := sorted({*_folders(folder["test"])} - {*classes}):
        raise DataError(f"{folder['test']} has classes without training images: {', '.join(more[:5])}")
    entries, ids = [], {part: count(1) for part in SPLITS}
    for label, name in enumerate(classes):
        files = {part: _images(folder[part] / name) for part in SPLITS}
        if not apart:
            files["test"] = files["test"][4::5]
            del files["train"][4::5]
        entries += [Entry(next(ids[part]), part, label, path) for part in SPLITS for path in files[part]]
    images = FolderSplit(root, split, entries, classes, transform)
    if lacking := set(range(len(classes))) - {*images.labels}:
        why = "" if apart else ": without train/ and test/ it takes five images a class"
        raise DataError(f"{folder[split] / classes[min(lacking)]} has no image for split {split}{why}")
    return images


def _folders(folder):
    return sorted(entry.name for entry in folder.glob("[!.]*") if entry.is_dir())


def _images(folder):
    """The image files below a folder, in order. A link back to a folder that was read before would be a circle."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)
