"""Image sets: how they are read, and what a model sees of them."""

from .build import DATASETS, build_dataset, data_folder, open_splits
from .cub import CUB200
from .geometry import box_mask, box_views, discriminative_points, part_points, patch_boxes, to_view
from .image_set import ImageSet, class_title
from .photographs import read_photograph
from .views import Views, eval_loader, normalisation, train_loader, view

__all__ = [
    "CUB200", "DATASETS", "ImageSet", "Views", "box_mask", "box_views", "build_dataset", "class_title", "data_folder",
    "discriminative_points", "eval_loader", "normalisation", "open_splits", "part_points", "patch_boxes", "read_photograph",
    "to_view", "train_loader", "view",
]  # fmt: skip
