"""A folder of images for each class."""

import hashlib
from pathlib import Path

from ..errors import ConfigError, DataError
from .image_set import ImageSet
from .photographs import SUFFIXES


def class_folders(root, split="train", transform=None):
    """A folder a class, below train/ and test/; or side by side, then every fifth image of a class is for testing."""
    root, apart = Path(root), (Path(root) / "train").is_dir()
    if split not in ("train", "test"):
        raise ConfigError(f"unknown split {split!r}: choose train or test")
    base = root / split if apart else root
    names = sorted(folder.name for folder in (root / "train" if apart else root).glob("[!.]*") if folder.is_dir())
    if apart and (more := {folder.name for folder in (root / "test").glob("[!.]*") if folder.is_dir()} - {*names}):
        raise DataError(f"{root / 'test'} has classes without training images: {', '.join(sorted(more)[:5])}")
    paths, labels = [], []
    for label, name in enumerate(names):
        files = sorted(file for file in (base / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        chosen = [file for place, file in enumerate(files) if apart or (place % 5 == 4) == (split == "test")]
        if not chosen:
            why = "" if apart else ": without train/ and test/ it takes five images a class"
            raise DataError(f"{base / name} has no image for split {split}{why}")
        paths, labels = paths + chosen, labels + [label] * len(chosen)
    if not paths:
        raise DataError(f"{root} is no folder with a folder of images for each class: name another one")
    both = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)  # a run is of both splits
    lines = "".join(f"{file.relative_to(root)} {file.stat().st_size}\n" for file in both)
    return ImageSet(paths, labels, names, transform, fingerprint=hashlib.sha256(lines.encode()).hexdigest())
