"""A data set held against what its authors published."""

from pathlib import Path

from ..config import given_path
from ..errors import DataError
from .build import build_dataset
from .catalogue import published
from .image_set import SPLITS


def check_dataset(name: str, root: Path | None = None) -> str:
    """Count a set's classes and images, hold them against the published numbers, and read every image once.

    Prints a line for each image that cannot be read. Raises DataError where there is one, or a number is another.

    Args:
        name: as `data list` has it, or the start of it.
        root: its folder, where it is not the one that `data list` names.
    """
    name, known = published(name)
    root = given_path(root or known.folder)
    train, test = (build_dataset(name, root, split) for split in SPLITS)
    counted = {
        "classes": (len(train.classes), known.classes),
        "training images": (len(train), known.train),
        "test images": (len(test), known.test),
    }
    flaws = [*train.flaws().values(), *test.flaws().values()]
    for flaw in flaws:
        print(flaw)
    wrong = [f"{found:,} {what}, published are {wanted:,}" for what, (found, wanted) in counted.items() if found != wanted]
    if flaws:
        wrong.append(f"{len(flaws):,} images that cannot be read")
    if wrong:
        raise DataError(f"{known.title} in {root} has {'; '.join(wrong)}: fetch it again, or unpack it again")
    held = ", ".join(f"{found:,} {what}" for what, (found, _) in counted.items())
    return f"{known.title} in {root}: {held}, as published; every image can be read"
