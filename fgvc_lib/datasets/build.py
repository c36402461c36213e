"""Data sets by name, and the splits of an experiment."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torchvision import datasets

from ..config import Experiment, given_path, project_path
from ..errors import ConfigError, DataError, nearest
from ..synthbirds.generation import generate
from .catalogue import WHERE
from .cub import CUB200, NABirds
from .fingerprint import Entry, checksum
from .folders import class_folders
from .image_set import SPLITS, FolderSplit, ImageSet
from .listing import printable
from .official import inaturalist, stanford_dogs
from .views import view


def torchvision_set(
    kind: type, train: str, samples: Callable, root: str | Path, split: str = "train", transform: Callable | None = None
) -> ImageSet:
    """A set that torchvision checks and splits. Raises DataError, with torchvision's reason, if it cannot be read.

    train: its name of the training split. samples: gives its files and their labels, which it keeps in private fields.
    """
    try:
        sources = {"train": kind(root, split=train), "test": kind(root, split="test")}
    except Exception as error:  # of every kind, where an index file has a line that it should not have
        absent = "Dataset not found" in str(error)  # the rest of it names an option of torchvision's
        reason = "its files are not there" if absent else f"{type(error).__name__}: {error}"
        raise DataError(f"{kind.__name__} in {root} cannot be read ({reason}): {WHERE}") from error
    entries = [
        Entry(number, part, int(label), Path(path))
        for part, source in sources.items()
        for number, (path, label) in enumerate(zip(*samples(source), strict=True), 1)
    ]
    return FolderSplit(Path(root), split, entries, sources["train"].classes, transform)


DATASETS = {
    "cub200": CUB200,
    "folders": class_folders,
    "aircraft": partial(torchvision_set, datasets.FGVCAircraft, "trainval", lambda s: (s._image_files, s._labels)),
    "flowers": partial(torchvision_set, datasets.Flowers102, "train", lambda s: (s._image_files, s._labels)),
    "pets": partial(torchvision_set, datasets.OxfordIIITPet, "trainval", lambda s: (s._images, s._labels)),
    "cars": partial(torchvision_set, datasets.StanfordCars, "train", lambda s: zip(*s._samples, strict=True)),
    "dogs": stanford_dogs,
    "nabirds": NABirds,
    "inat2017": partial(inaturalist, ("train2017.json", "val2017.json")),
    "inat2021": partial(inaturalist, ("train.json", "val.json")),
}


def build_dataset(name: str, root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """The set `name` (one of DATASETS) from the folder `root`, see `given_path`. Raises ConfigError, listing the known, for
    another name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}{nearest(name, DATASETS)}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name](given_path(root), split, transform)


def open_splits(experiment: Experiment) -> tuple[ImageSet, ImageSet]:
    """(train, test) of an experiment, both as its model is tested on them: item i is (`view` of the photograph, label).

    Draws the built-in birds if they are what it uses and are not there yet. With `validation` the second set is every fifth
    training image of a class, which the first goes without. With `skip_broken` images that cannot be read are left out.
    Raises DataError for data that cannot be used, or that nothing can be learned or tested on, and for `crop_to_box` on data
    without boxes.
    """
    if experiment.dataset != "cub200" and not experiment.data:
        raise ConfigError(f"dataset {experiment.dataset!r} says how to read a folder: name the folder, too, with data")
    root = experiment.data or project_path(f"data/synthbirds-{experiment.profile}")
    if not experiment.data:
        generate(root, experiment.profile)
    splits = ("train", "train") if experiment.validation else SPLITS
    train, test = (build_dataset(experiment.dataset, root, split, partial(view, experiment=experiment)) for split in splits)
    if experiment.crop_to_box:
        for images in (train, test):
            images.crop_to_boxes()
        crops = [images.crops.tolist() for images in (train, test)]  # now a part of what the splits hold
        train.fingerprint = test.fingerprint = checksum([train.fingerprint, crops])
    if experiment.validation:
        place = pd.Series(train.labels).groupby(train.labels).cumcount()
        train.drop(np.flatnonzero(place % 5 == 4).tolist())
        test.drop(np.flatnonzero(place % 5 != 4).tolist())
    if experiment.skip_broken:
        train.skip_broken()
        test.skip_broken()
    skipped = train.skipped + test.skipped
    left = f", {skipped} that cannot be read left out" if skipped else ""
    for name, images in (("training", train), ("test", test)):
        if not len(images):
            raise DataError(f"the data has no {name} images{left}: name a folder with both training and test images")
    if len(set(train.labels)) < 2:
        raise DataError(f"all training images are of one class{left}: classification takes two classes or more")
    return train, test


def found(train: ImageSet, test: ImageSet) -> str:
    """What an experiment's data holds, in a line: classes, images, and what was left out and why."""
    here = project_path(".")
    place = train.root.relative_to(here) if train.root.is_relative_to(here) else train.root
    skipped = train.skipped + test.skipped
    words = [f"{place}: {len(train.classes)} classes, {len(train):,} training and {len(test):,} test images", *train.remarks]
    return printable("; ".join(words + [f"images that cannot be read left out: {skipped:,}"] * bool(skipped)))
