"""Image sets: how they are read, and what a model sees of them."""

from .build import DATASETS, build_dataset, data_folder, open_splits
from .cub import CUB200
from .image_set import ImageSet, class_title
from .views import Views, build_transform, eval_loader, normalisation, train_loader

__all__ = [
    "CUB200", "DATASETS", "ImageSet", "Views", "build_dataset", "build_transform", "class_title", "data_folder",
    "eval_loader", "normalisation", "open_splits", "train_loader",
]  # fmt: skip
