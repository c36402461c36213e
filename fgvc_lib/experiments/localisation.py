"""Whether maps and selected patches lie on the bird, and on its parts."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom
from tqdm import tqdm

from ..datasets import ImageSet, eval_loader, open_splits, workers_watched
from ..datasets.geometry import box_mask, box_views, discriminative_points, part_points, patch_boxes
from ..machine.device import best_device
from ..runs import Run
from ..saliency import attribute, input_gradient
from ..training import load_model
from ..vit import VisionTransformer

WINDOW = 16  # pixels: the square around a part's point that counts as the part


def map_hits(maps: np.ndarray, boxes: np.ndarray, points: np.ndarray, discriminative: np.ndarray) -> pd.DataFrame:
    """How maps (B, H, W) lie on the birds: one row per image.

    boxes: (B, 4). points: (B, P, 2) x y of the parts in pixels, nan where one is not visible. discriminative: the same,
    nan also where a part does not set the class apart.
    Columns: peak (whether the largest value lies in the box: the pointing game, Zhang et al. 2018, section 4.2), box (share
    of the map in the box: Wang et al. 2020, section 4.2), part (share of what lies in the box that lies in WINDOW-wide
    squares around the parts), discriminative (share of what lies around the parts that lies around the discriminative ones),
    the last two nan where there is nothing to have a share of; box_chance, part_chance, discriminative_chance: the same
    shares of an even map.
    """
    maps = maps.astype(float)
    bird = box_mask(boxes, maps.shape[1:])
    around, around_discriminative = (_windows(places, maps.shape[1:]) & bird for places in (points, discriminative))
    peaks = maps.reshape(len(maps), -1).argmax(1)
    total = maps.sum((1, 2))
    found = {
        "peak": bird.reshape(len(maps), -1)[np.arange(len(maps)), peaks],
        "box": (maps * bird).sum((1, 2)) / np.where(total > 0, total, 1),
        "box_chance": bird.mean((1, 2)),
    }
    for name, part, whole in (("part", around, bird), ("discriminative", around_discriminative, around)):
        for column, values in ((name, maps), (f"{name}_chance", 1.0)):
            inside = (values * whole).sum((1, 2))
            share = (values * part).sum((1, 2)) / np.where(inside > 0, inside, 1)
            found[column] = np.where(part.any((1, 2)) & (inside > 0), share, np.nan)
    return pd.DataFrame(found)


def _windows(points, size):
    """(B, H, W): what lies in a WINDOW-wide square around any of the points (B, P, 2)."""
    corners = np.nan_to_num(points, nan=-1e6) - WINDOW / 2
    squares = np.concatenate([corners, np.full_like(points, WINDOW)], axis=-1)
    return np.any([box_mask(squares[:, part], size) for part in range(points.shape[1])], axis=0)


def model_patches(model: VisionTransformer) -> np.ndarray:
    """The boxes (N, 4) of the model's patches."""
    rows, columns = model.cfg.grid
    return patch_boxes(range(rows * columns), columns, model.cfg.patch_size, model.cfg.stride)


def patches_in(boxes: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Which patches (N, 4) have their centre in which of the boxes (B, 4): (B, N) bool."""
    centre = patches[:, :2] + patches[:, 2:] / 2
    low = boxes[:, None, :2]
    high = low + boxes[:, None, 2:]
    return ((centre >= low) & (centre < high)).all(-1)


def selection_hits(parts: np.ndarray, patches: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> pd.DataFrame:
    """How selected patches lie on the birds: one row per image.

    parts: (B, K) patch indices. patches: (N, 4), every patch's box, from `patch_boxes`. boxes: (B, 4).
    points: (B, P, 2) x y in pixels of the parts to hit, nan where one is not visible.
    Columns: bird (share of the selected patches whose centre lies in the box), part (1 if any of them holds one of the
    points, else 0) and part_recall (share of the visible points that they hold), both nan where no point is visible.
    Each with _chance: what as many different patches, drawn at random, would get on average; and the last two with
    _chance_on_bird: the same, drawn among the patches whose centre lies in the box, all of them if there are fewer.
    """
    corner, side = patches[:, :2], patches[:, 2:]
    on_bird = patches_in(boxes, patches)
    offset = points[:, None] - corner[:, None]  # (B, N, P, 2)
    holds = ((offset >= 0) & (offset < side[:, None])).all(-1)
    holds = np.concatenate([holds.any(-1, keepdims=True), holds], axis=-1)  # (B, N, 1+P): any of the points, and each
    hit = {"": np.take_along_axis(holds, parts[..., None], axis=1).any(1)}  # (B, 1+P), or how likely it is
    different = np.array([len(set(row)) for row in parts.tolist()])
    for name, there in (("_chance", np.ones_like(on_bird)), ("_chance_on_bird", on_bird)):
        count, holding = there.sum(1, keepdims=True), (holds & there[..., None]).sum(1)
        drawn = np.minimum(different[:, None], count)
        hit[name] = 1 - hypergeom.pmf(0, count.clip(1), holding, drawn)
    visible = (~np.isnan(points).any(-1)).sum(1)
    visible = np.where(visible, visible, np.nan)
    found = {"bird": np.take_along_axis(on_bird, parts, axis=1).mean(1), "bird_chance": on_bird.mean(1)}
    for name, values in hit.items():
        found[f"part{name}"] = np.where(visible > 0, values[:, 0], np.nan)
        found[f"part_recall{name}"] = values[:, 1:].sum(1) / visible
    return pd.DataFrame(found)


def tested_images(run: Run) -> ImageSet:
    """The test images of a finished run, in the order of its predictions: without those that could not be decoded."""
    _, test = open_splits(run.experiment)
    tested = set(run.predictions["id"])
    test.drop([place for place, image in enumerate(test.ids) if image not in tested])
    return test


@workers_watched()
def localise(run: Run, method: str | None = None) -> pd.DataFrame:
    """Where a finished run looks: one row per test image, in the order of its predictions.

    Columns map_…: `map_hits` of its input gradient, or of what another method of `saliency.attribute` says; if the model
    selects, columns selected_…: `selection_hits` of its parts. Where the data does not say which parts set a class apart, as
    CUB-200-2011 does not, the parts to hit are all that are annotated. No columns for data without boxes.
    Runs on a GPU where there is one.
    """
    experiment, device = run.experiment, best_device()
    model, test = load_model(run).to(device), tested_images(run)
    if test.boxes is None:
        return pd.DataFrame(index=range(len(test)))
    boxes, discriminative = box_views(test, experiment), discriminative_points(test, experiment)
    points = discriminative if test.parts is None else part_points(test, experiment)
    known = np.full_like(points, np.nan) if test.diagnostic is None else discriminative  # where the data says which they are
    if experiment.fusion:
        patches, parts = model_patches(model), np.stack(run.predictions["parts"])
    frames, first = [], 0
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)  # as `fit` does before it tests
        for images, labels in tqdm(eval_loader(test, experiment), "where it looks", leave=False, delay=2, unit="batch"):
            batch = slice(first, first := first + len(images))
            images, labels = images.to(device), labels.to(device)
            maps = attribute(model, images, labels, method) if method else input_gradient(model, images, labels)
            found = map_hits(maps.cpu().numpy(), boxes[batch], points[batch], known[batch]).add_prefix("map_")
            if experiment.fusion:
                hits = selection_hits(parts[batch], patches, boxes[batch], discriminative[batch])
                found = found.join(hits.add_prefix("selected_"))
            frames.append(found)
    return pd.concat(frames, ignore_index=True).astype(np.float32)
