"""Image sets: how they are read, and what a model sees of them."""

from .build import DATASETS, build_dataset, found, open_splits
from .cub import CUB200, NABirds
from .draws import Draws, seed_of
from .geometry import box_mask, box_views, discriminative_points, part_points, patch_boxes
from .image_set import ImageSet, class_title
from .lookalikes import clearest_image, special_looks, telling_parts
from .photographs import read_photograph
from .views import eval_loader, normalisation, train_loader, view, workers_watched
