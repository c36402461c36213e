"""Whether maps and selected patches lie on the bird, and on its discriminative parts."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom

from ..datasets import eval_loader, open_splits, workers_watched
from ..datasets.geometry import box_mask, box_views, discriminative_points, part_points, patch_boxes
from ..runs import Run
from ..saliency import attribute, input_gradient
from ..training import load_model

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


def selection_hits(parts: np.ndarray, patches: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> pd.DataFrame:
    """How selected patches lie on the birds: one row per image.

    parts: (B, K) patch indices. patches: (N, 4), every patch's box, from `patch_boxes`. boxes: (B, 4).
    points: (B, P, 2) x y in pixels of the discriminative parts, nan where one is not visible.
    Columns: bird (share of the selected patches whose centre lies in the box), part (1 if any of them holds one of the
    points, else 0; nan where there is none); bird_chance and part_chance: what as many different patches, drawn at random,
    would get.
    """
    corner, side = patches[:, :2], patches[:, 2:]
    centre = corner + side / 2
    low = boxes[:, None, :2]
    high = low + boxes[:, None, 2:]
    on_bird = ((centre >= low) & (centre < high)).all(-1)  # (B, N)
    offset = points[:, None] - corner[:, None]  # (B, N, P, 2)
    on_part = ((offset >= 0) & (offset < side[:, None])).all(-1).any(-1)  # (B, N)
    bird, part = (np.take_along_axis(truth, parts, axis=1) for truth in (on_bird, on_part))
    different = [len(set(row)) for row in parts.tolist()]
    missed = hypergeom.pmf(0, len(patches), on_part.sum(1), different)
    visible = ~np.isnan(points).any(-1).all(1)
    return pd.DataFrame({
        "bird": bird.mean(1), "part": np.where(visible, part.any(1), np.nan),
        "bird_chance": on_bird.mean(1), "part_chance": np.where(visible, 1 - missed, np.nan),
    })  # fmt: skip


@workers_watched()
def localise(run: Run, method: str | None = None) -> pd.DataFrame:
    """Where a finished run looks: one row per test image, in the order of its predictions.

    Columns map_…: `map_hits` of its input gradient, or of what another method of `saliency.attribute` says; if the model
    selects, columns selected_…: `selection_hits` of its parts. No columns for data without boxes.
    """
    experiment = run.experiment
    model, (_, test) = load_model(run), open_splits(experiment)
    tested = set(run.predictions["id"])  # without those that could not be decoded
    test.drop([place for place, image in enumerate(test.ids) if image not in tested])
    if test.boxes is None:
        return pd.DataFrame(index=range(len(test)))
    boxes, discriminative = box_views(test, experiment), discriminative_points(test, experiment)
    points = discriminative if test.parts is None else part_points(test, experiment)
    known = np.full_like(points, np.nan) if test.diagnostic is None else discriminative  # where the data says which they are
    frames, first = [], 0
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)  # as `fit` does before it tests
        for images, labels in eval_loader(test, experiment):
            batch = slice(first, first := first + len(images))
            maps = attribute(model, images, labels, method) if method else input_gradient(model, images, labels)
            frames.append(map_hits(maps.numpy(), boxes[batch], points[batch], known[batch]))
    found = pd.concat(frames, ignore_index=True).add_prefix("map_")
    if experiment.fusion:
        rows, columns = model.cfg.grid
        patches = patch_boxes(range(rows * columns), columns, model.cfg.patch_size, model.cfg.stride)
        hits = selection_hits(np.stack(run.predictions["parts"]), patches, boxes, discriminative)
        found = found.join(hits.add_prefix("selected_"))
    return found.astype(np.float32)
