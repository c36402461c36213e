"""Data sets by name, and the splits of an experiment."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import Experiment, project_path
from ..errors import ConfigError
from ..synthbirds.generation import generate
from .cub import CUB200
from .folders import class_folders
from .image_set import SPLITS, ImageSet
from .torchvision_sets import TORCHVISION_SETS
from .views import view

DATASETS = {"cub200": CUB200, "folders": class_folders, **TORCHVISION_SETS}


def build_dataset(name: str, root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """The set `name` (one of DATASETS) from the folder `root`. Raises ConfigError, listing the known, for another name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name](root, split, transform)


def data_folder(experiment: Experiment) -> Path:
    """The experiment's data folder; draws the built-in birds if they are what it uses and are not there yet."""
    if experiment.data:
        return project_path(experiment.data)
    return generate(project_path(f"data/synthbirds-{experiment.profile}"), experiment.profile)


def open_splits(experiment: Experiment) -> tuple[ImageSet, ImageSet]:
    """(train, test) of an experiment, both as its model is tested on them: item i is (`view` of the photograph, label).

    With `validation` the second is every fifth training image of a class, which the first goes without.
    Raises DataError for data that cannot be used.
    """
    root, transform = data_folder(experiment), partial(view, experiment=experiment)
    splits = ("train", "train") if experiment.validation else SPLITS
    train, test = (build_dataset(experiment.dataset, root, split, transform) for split in splits)
    if experiment.validation:
        place = pd.Series(train.labels).groupby(train.labels).cumcount()
        train.drop(np.flatnonzero(place % 5 == 4).tolist())
        test.drop(np.flatnonzero(place % 5 != 4).tolist())
    return train, test
