"""Where a model looks: input gradients, and how well a map or a part hits an annotated box or part."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .errors import ConfigError

OBJECTIVES = ("loss", "logit")


def input_gradient(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None, objective: str = "loss"
) -> torch.Tensor:
    """The gradient that FGSM steps along (Goodfellow et al. 2015), its absolute value summed over the channels.

    images: (B, 3, H, W). labels: (B,); None: what the model predicts. objective: differentiate the cross-entropy
    ("loss") or the label's logit ("logit"). Returns (B, H, W), each image's map independent of the others in the
    batch. The model is put in evaluation mode and back; its weights take no gradient.
    Raises ConfigError, listing the known ones, for an unknown objective.
    """
    return _gradient(model, images, labels, objective).abs().sum(dim=1)


def fgsm(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, strength: float, normalisation: tuple
) -> torch.Tensor:
    """Adversarial images (B, 3, H, W) by the fast gradient sign method (Goodfellow et al. 2015, section 4).

    images: (B, 3, H, W), normalised by `normalisation` as `datasets.normalisation` gives it. strength: how far every pixel
    value moves up the loss, in grey levels of 0..255; values stay within 0..255.
    """
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in normalisation)
    moved = images + strength / 255 / deviation * _gradient(model, images, labels, "loss").sign()
    return moved.clamp(-mean / deviation, (1 - mean) / deviation)


def _gradient(model, images, labels, objective):
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    training, frozen = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = model(images)
            labels = logits.argmax(-1) if labels is None else labels
            if objective == "loss":
                target = F.cross_entropy(logits, labels, reduction="sum")
            else:
                target = logits.gather(1, labels[:, None]).sum()
            return torch.autograd.grad(target, images)[0]
    finally:
        model.train(training)
        for parameter in frozen:
            parameter.requires_grad_()


def box_mask(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (B, 4) x y width height in pixels -> (B, H, W) True where the pixel's centre lies in the box."""
    x, y, width, height = np.asarray(boxes, dtype=float).T[:, :, None]
    rows, cols = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    inside_y = (rows >= y) & (rows < y + height)
    inside_x = (cols >= x) & (cols < x + width)
    return inside_y[:, :, None] & inside_x[:, None, :]


def pointing_game(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each map's (B, H, W) largest value lies in its box (B, 4): (B,) bool (Zhang et al. 2018, section 4.2)."""
    maps = np.asarray(maps)
    peak = maps.reshape(len(maps), -1).argmax(1)
    return box_mask(boxes, maps.shape[1:]).reshape(len(maps), -1)[np.arange(len(maps)), peak]


def energy_in_box(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of each map's (B, H, W) sum that lies in its box (B, 4): (B,) in 0..1 (Wang et al. 2020, section 4.2)."""
    maps = np.asarray(maps, dtype=float)
    total = maps.sum((1, 2))
    return (maps * box_mask(boxes, maps.shape[1:])).sum((1, 2)) / np.where(total > 0, total, 1)


def patch_boxes(parts: np.ndarray, cols: int, patch_size: int, stride: int) -> np.ndarray:
    """Patch indices (...) row-major on a grid of `cols` columns -> (..., 4) x y width height in pixels."""
    parts = np.asarray(parts)
    x, y = parts % cols * stride, parts // cols * stride
    return np.stack([x, y, np.full_like(x, patch_size), np.full_like(x, patch_size)], -1)


def part_distances(boxes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How close selected patches come to annotated parts.

    boxes: (B, K, 4) from `patch_boxes`. points: (B, M, 2) x y in pixels, nan where a part is not visible.
    Returns distance (B, M) in pixels from each point to the nearest patch centre, and hit (B, M), whether any patch
    holds the point; nan for a point that is not visible.
    """
    boxes, points = np.asarray(boxes, dtype=float)[:, None], np.asarray(points, dtype=float)[:, :, None]
    distance = np.linalg.norm(boxes[..., :2] + boxes[..., 2:] / 2 - points, axis=-1).min(-1)
    offset = points - boxes[..., :2]
    inside = ((offset >= 0) & (offset < boxes[..., 2:])).all(-1).any(-1)
    return distance, np.where(np.isnan(distance), np.nan, inside)
