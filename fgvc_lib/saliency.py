"""Where a model looks: input gradients, and how well a map or a part hits an annotated box or part."""

import contextlib

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import hypergeom
from torch import nn

from .errors import ConfigError

OBJECTIVES = ("loss", "logit")
METHODS = ("gradient", "SmoothGrad", "integrated gradients", "Grad-CAM")
WINDOW = 16  # pixels: the square around a part's point that counts as the part


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


def attribute(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, method: str = "gradient", samples: int = 8
) -> torch.Tensor:
    """What speaks for the logit of `labels`, by one of METHODS: maps (B, H, W), absolute values summed over the channels.

    SmoothGrad (Smilkov et al. 2017; noise of 0.15 of the image's range) and integrated gradients (Sundararajan et al. 2017;
    from the mean colour) take `samples` gradients; Grad-CAM (Selvaraju et al. 2017) weighs the last convolution's maps, so
    it is for the CNN. From captum, but for the gradient itself. Raises ConfigError, listing the methods that fit.
    """
    known = METHODS if hasattr(model, "layer4") else METHODS[:-1]
    if method not in known:
        raise ConfigError(f"unknown method {method!r} for this model: choose one of {', '.join(known)}")
    if method == "gradient":
        return input_gradient(model, images, labels, "logit")
    from captum import attr  # slow to import

    with _frozen(model), torch.random.fork_rng():
        images = images.detach().requires_grad_()
        if method == "Grad-CAM":
            maps = attr.LayerGradCam(model, model.layer4).attribute(images, labels, relu_attributions=True)
            return F.interpolate(maps.detach(), images.shape[-2:], mode="bilinear")[:, 0]
        if method == "SmoothGrad":
            smooth, maps = attr.NoiseTunnel(attr.Saliency(model)), []
            for image, label in zip(images.split(1), labels.split(1), strict=True):  # each with its own range and noise
                torch.manual_seed(0)
                noise = 0.15 * (image.max() - image.min()).item()
                options = {"nt_samples": samples, "stdevs": noise, "target": label, "abs": False}
                maps.append(smooth.attribute(image, **options))
            maps = torch.cat(maps)
        else:
            integrate = attr.IntegratedGradients(model)
            maps = integrate.attribute(images, target=labels, n_steps=samples, internal_batch_size=len(images))
    return maps.detach().abs().sum(dim=1)


@contextlib.contextmanager
def _frozen(model):
    """Evaluation mode, and no gradient for the weights: it would cost as much again."""
    training, weights = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for parameter in weights:
            parameter.requires_grad_()


def _gradient(model, images, labels, objective):
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    with _frozen(model):
        images = images.detach().requires_grad_()
        logits = model(images)
        labels = logits.argmax(-1) if labels is None else labels
        if objective == "loss":
            target = F.cross_entropy(logits, labels, reduction="sum")
        else:
            target = logits.gather(1, labels[:, None]).sum()
        return torch.autograd.grad(target, images)[0]


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


def map_hits(maps: np.ndarray, boxes: np.ndarray, points: np.ndarray, counting: np.ndarray) -> pd.DataFrame:
    """How maps (B, H, W) lie on the birds: a row an image.

    boxes: (B, 4). points: (B, P, 2) x y of the parts in pixels, nan where one is not visible; counting: the same, nan where
    a part does not set the class apart, too.
    Columns: peak (whether the largest value lies in the box), box (share of the map in the box), part (share of what lies in
    the box that lies in WINDOW-wide squares around the parts), counting (share of what lies around the parts that lies
    around those that count), each but the first nan where there is nothing to have a share of; box_chance, part_chance,
    counting_chance: the same shares of a map that is even.
    """
    size, bird = maps.shape[1:], box_mask(boxes, maps.shape[1:])
    around, around_counting = (_windows(places, size) & bird for places in (points, counting))
    maps = np.asarray(maps, dtype=float)
    found = {"peak": pointing_game(maps, boxes), "box": energy_in_box(maps, boxes), "box_chance": bird.mean((1, 2))}
    for name, part, whole in (("part", around, bird), ("counting", around_counting, around)):
        for column, values in ((name, maps), (f"{name}_chance", 1.0)):
            inside = (values * whole).sum((1, 2))
            share = (values * part).sum((1, 2)) / np.where(inside > 0, inside, 1)
            found[column] = np.where(part.any((1, 2)) & (inside > 0), share, np.nan)
    return pd.DataFrame(found)


def _windows(points, size):
    """(B, H, W): what lies in a WINDOW-wide square around any of the points (B, P, 2)."""
    corners = np.concatenate([np.nan_to_num(points, nan=-1e6) - WINDOW / 2, np.full_like(points, WINDOW)], -1)
    return np.stack([box_mask(corners[:, p], size) for p in range(points.shape[1])]).any(0)


def selection_hits(parts: np.ndarray, patches: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> pd.DataFrame:
    """How selected patches lie on the birds: a row an image.

    parts: (B, K) patch indices. patches: (N, 4), every patch's box, from `patch_boxes`. boxes: (B, 4).
    points: (B, P, 2) x y in pixels, nan where a part is not visible or does not count.
    Columns: bird (share of the selected patches whose centre lies in the box), part (1 if any of them holds one of the
    points, else 0; nan where there is none); bird_chance and part_chance: what as many different patches, drawn at random,
    would get.
    """
    centre, corner, points = patches[:, :2] + patches[:, 2:] / 2, patches[:, None, :2], points[:, None]
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    on_bird = ((centre >= low) & (centre < high)).all(-1)  # (B, N)
    offset = points - corner
    on_part = ((offset >= 0) & (offset < patches[:, None, 2:])).all(-1).any(-1)  # (B, N)
    bird, part = (np.take_along_axis(truth, parts, axis=1) for truth in (on_bird, on_part))
    different = np.array([len(set(row)) for row in parts.tolist()])
    missed = hypergeom.pmf(0, len(patches), on_part.sum(1), different)
    counts = ~np.isnan(points).any(-1).all((1, 2))
    return pd.DataFrame({
        "bird": bird.mean(1), "part": np.where(counts, part.any(1), np.nan),
        "bird_chance": on_bird.mean(1), "part_chance": np.where(counts, 1 - missed, np.nan),
    })  # fmt: skip
