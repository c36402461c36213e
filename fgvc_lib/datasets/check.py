"""A data set held against what its authors published."""

from pathlib import Path

from ..config import given_path
from ..errors import ConfigError, DataError
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
    try:
        name, known = published(name)
    except ConfigError as error:
        own = "`python -m fgvc_lib train --dataset folders --data FOLDER` checks a folder of your own before it trains on it"
        raise ConfigError(f"{error}; {own}") from None
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
        way = "fetch it again, or unpack it again"
        way += "" if flaws else ", or train on it as it is, if it is meant to be a part of the set"
        raise DataError(f"{known.title} in {root} has {'; '.join(wrong)}: {way}")
    held = ", ".join(f"{found:,} {what}" for what, (found, _) in counted.items())
    return f"{known.title} in {root}: {held}, as published; every image can be read"
