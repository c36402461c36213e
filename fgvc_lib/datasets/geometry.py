"""Where things are: boxes, parts and patches, in pixels of the photograph and of the model's view."""

import numpy as np

from ..config import Experiment
from .image_set import ImageSet


def to_view(points: np.ndarray, image_size: np.ndarray, experiment: Experiment) -> np.ndarray:
    """Points (..., 2) x y in pixels of photographs of (..., 2) width height -> pixels of the model's test-time view."""
    margin = (experiment.resize_size - experiment.image_size) / 2
    return np.asarray(points, dtype=float) * experiment.resize_size / np.asarray(image_size, dtype=float) - margin


def part_points(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """Where the annotated parts lie in the model's view: (n, P, 2) x y in pixels, nan where a part is not visible."""
    points = to_view(images.parts[..., :2], images.sizes()[:, None], experiment)
    inside = ((points >= 0) & (points < experiment.image_size)).all(-1)
    return np.where((inside & (images.parts[..., 2] > 0))[..., None], points, np.nan)


def discriminative_points(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """`part_points` of the parts that set an image's class apart from its siblings, the others nan; where the data set does
    not say which these are, all of them."""
    if images.parts is None:
        return np.full((len(images), 1, 2), np.nan)
    points = part_points(images, experiment)
    return points if images.diagnostic is None else np.where(images.diagnostic[images.labels][..., None], points, np.nan)


def box_views(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """The annotated boxes in the model's view: (n, 4) x y width height in pixels."""
    corners = np.stack([images.boxes[:, :2], images.boxes[:, :2] + images.boxes[:, 2:]], axis=1)
    corners = to_view(corners, images.sizes()[:, None], experiment).clip(0, experiment.image_size)
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)


def box_mask(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (B, 4) x y width height in pixels -> (B, H, W) True where the pixel's centre lies in the box."""
    x, y, width, height = np.asarray(boxes, dtype=float).T[:, :, None]
    rows, cols = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    inside_y = (rows >= y) & (rows < y + height)
    inside_x = (cols >= x) & (cols < x + width)
    return inside_y[:, :, None] & inside_x[:, None, :]


def patch_boxes(parts: np.ndarray, cols: int, patch_size: int, stride: int) -> np.ndarray:
    """Patch indices (...) row-major on a grid of `cols` columns -> (..., 4) x y width height in pixels."""
    parts = np.asarray(parts)
    x, y = parts % cols * stride, parts // cols * stride
    return np.stack([x, y, np.full_like(x, patch_size), np.full_like(x, patch_size)], -1)
