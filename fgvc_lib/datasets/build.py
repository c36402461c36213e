"""Data sets by name, and the splits of an experiment."""

from pathlib import Path

import torchvision

from ..config import Experiment, project_path
from ..errors import ConfigError
from ..synthbirds.generation import generate
from .cub import CUB200
from .folders import class_folders
from .image_set import ImageSet
from .torchvision_sets import from_torchvision
from .views import build_transform

_sets = torchvision.datasets
DATASETS = {
    "cub200": CUB200,
    "folders": class_folders,
    "aircraft": from_torchvision(_sets.FGVCAircraft, lambda s: s._image_files, lambda s: s._labels, "trainval"),
    "flowers": from_torchvision(_sets.Flowers102, lambda s: s._image_files, lambda s: s._labels, "train"),
    "pets": from_torchvision(_sets.OxfordIIITPet, lambda s: s._images, lambda s: s._labels, "trainval"),
    "cars": from_torchvision(
        _sets.StanfordCars, lambda s: [p for p, _ in s._samples], lambda s: [t for _, t in s._samples], "train"
    ),
}


def build_dataset(name: str, root, split: str = "train", transform=None) -> ImageSet:
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
    """(train, test) of an experiment, with its transforms. Raises DataError for data that cannot be used."""
    root = data_folder(experiment)
    return tuple(
        build_dataset(experiment.dataset, root, split, build_transform(experiment, train=split == "train"))
        for split in ("train", "test")
    )
