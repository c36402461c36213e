"""How many patches the last layer needs: a trained model as it is, its last layer shown fewer and fewer of them."""

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.integrate import trapezoid
from tqdm import tqdm

from ..datasets import box_views, eval_loader
from ..errors import ConfigError, DataError
from ..machine.device import best_device
from ..part_selection import FUSIONS, RANDOM, select
from ..runs import Run
from ..training import load_model
from ..vit import VisionTransformer
from .ablation import SCHEMA, origin
from .localisation import model_patches, patches_in, tested_images
from .statistics import holm, interval, p_value

ON_BIRD = "random_on_bird"
BEST = "mul"  # the course report's best rule, which the others are held against
LOSS = 0.01  # of accuracy: with less than that lost, the patches are enough


@torch.no_grad()
def last_layer_logits(model: VisionTransformer, tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Tokens (B, 1+N, D) below the last layer -> logits (B, M, C) of M choices of patches, kept (B, M, N) bool.

    What `VisionTransformer.forward_last` and `forward_head` give for the class token and the kept patches, each of them
    once. A token's keys and values do not depend on which others are kept, and only the class token is classified: so a
    choice is one query more, which attends to what is kept.
    """
    block, choices = model.blocks[-1], kept.shape[1]
    q, k, v = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, model.cfg.heads, -1)).permute(2, 0, 3, 1, 4)
    seen = F.pad(kept, (1, 0), value=True)[:, None]  # (B, 1, M, 1+N): the class token sees itself, too
    update = F.scaled_dot_product_attention(q[:, :, :1].expand(-1, -1, choices, -1), k, v, attn_mask=seen)
    x = tokens[:, :1] + block.ls1(block.attn.proj(update.transpose(1, 2).flatten(2)))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.head(model.norm(x))


@torch.no_grad()
def curve(run: Run, ks: Iterable[int] | None = None) -> pd.DataFrame:
    """Test a finished run's model with all patches below its last layer, and there only with those that the heads choose.

    Nothing is trained. Each of the K heads chooses its k best patches by a rule, and the last layer sees the class token and
    the patches that any head chose, each of them once: with k = N it is the plain model, whatever the rule.
    ks: patches a head; None: 1, 2, 4, ...; all N come with them.
    Returns one row per rule, k and test image: rule (categorical: one of FUSIONS; RANDOM, each head draws k patches; where
    boxes are known ON_BIRD, each head draws k of the patches whose centre lies in the box, or takes all if there are not as
    many), k, id, correct, patches (how many different ones the last layer saw), seed (the run's). With a larger k the last
    layer sees the same patches and more.
    Runs on a GPU where there is one. Raises ConfigError for a run whose last layer cannot leave patches out, and for a k
    that is not between 1 and N.
    """
    experiment, model, test = run.experiment, load_model(run), tested_images(run)
    if not isinstance(model, VisionTransformer) or model.cfg.depth < 2 or model.cfg.head != "cls":
        raise ConfigError(
            f"{experiment.title} cannot leave patches out of its last layer: name the run of a ViT with two layers or more "
            "and head 'cls'"
        )
    boxes, heads = model_patches(model), model.cfg.heads
    ks = sorted({*(ks or (2**power for power in range(len(boxes).bit_length()))), len(boxes)})
    if not 1 <= ks[0] <= ks[-1] <= len(boxes):
        raise ConfigError(f"k must lie between 1 and the number of patches, {len(boxes)}, not {ks}")
    device = best_device()
    model.to(device)
    allowed = dict.fromkeys((*FUSIONS, RANDOM), torch.ones(len(test), len(boxes), dtype=torch.bool))
    if test.boxes is not None:
        allowed[ON_BIRD] = torch.from_numpy(patches_in(box_views(test, experiment), boxes))
    generator, found, first = torch.Generator().manual_seed(experiment.seed), [], 0
    for images, labels in tqdm(eval_loader(test, experiment), "curve", leave=False, delay=2, unit="batch"):
        batch = slice(first, first := first + len(images))
        trunk = model.forward_trunk(images.to(device), keep_all=True)
        drawn = torch.rand(len(images), heads, len(boxes), generator=generator).to(device)  # the same ones on any device
        kept = []
        for rule, places in allowed.items():
            scores = model.part_scores(trunk, rule) if rule in FUSIONS else drawn
            kept += _chosen(scores, ks, places[batch].to(device))
        kept = torch.stack(kept, dim=1)  # (B, M, N), k within rule
        right = last_layer_logits(model, trunk.tokens, kept).argmax(-1) == labels.to(device)[:, None]
        found.append(torch.stack([right, kept.sum(-1)]).cpu())
    right, count = torch.cat(found, dim=1).mT.flatten(1).numpy()
    return pd.DataFrame({
        "rule": pd.Categorical(np.repeat(list(allowed), len(ks) * len(test)), list(allowed)),
        "k": np.tile(np.repeat(np.array(ks, dtype=np.int16), len(test)), len(allowed)),
        "id": np.tile(test.ids, len(allowed) * len(ks)), "correct": right.astype(bool), "patches": count.astype(np.int16),
        "seed": experiment.seed,
    })  # fmt: skip


def _chosen(scores, ks, allowed):
    """For each k, which of the patches allowed, (B, N) bool, are among the k best of any head by its scores (B, K, N)."""
    heads, patches = scores.shape[1:]
    order = select(scores.masked_fill(~allowed[:, None], -torch.inf), patches).unflatten(1, (heads, patches))
    return [torch.zeros_like(allowed).scatter(1, order[:, :, :k].flatten(1), True) & allowed for k in ks]


def curves(runs: Iterable[Run], ks: Iterable[int] | None = None) -> pd.DataFrame:
    """`curve` of runs that differ in nothing but their seed, as records that `ablation.write_records` can keep.

    Raises ConfigError if they differ in more, or not even in that.
    """
    runs, ks = list(runs), list(ks or ())
    settings = {
        run.experiment.replace(seed=0).hash(*(run.environment[name] for name in ("data", "weights"))) for run in runs
    }
    if len(settings) != 1 or len({run.experiment.seed for run in runs}) < len(runs):
        raise ConfigError("runs share a curve if they differ in their seed and in nothing else: name such runs, each once")
    records = pd.concat([curve(run, ks) for run in runs], ignore_index=True)
    records.attrs = {"schema": SCHEMA, "runs": json.dumps([{"seed": run.experiment.seed, **origin(run)} for run in runs])}
    return records


def means(records: pd.DataFrame) -> pd.DataFrame:
    """The points of the curves, over seeds and test images: one row per rule and k.

    Columns: accuracy, low, high (95% interval from `statistics.bootstrap`), patches (mean number of different ones),
    seeds, images.
    """
    rows = {}
    for (rule, k), frame in records.groupby(["rule", "k"], observed=True):
        hits = frame.pivot(index="seed", columns="id", values="correct").astype(float)
        rows[rule, k] = dict(zip(("accuracy", "low", "high"), interval(hits), strict=True))
        rows[rule, k] |= {"patches": frame["patches"].mean(), "seeds": len(hits), "images": hits.shape[1]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["rule", "k"])


def heights(records: pd.DataFrame) -> tuple[tuple[float, float], dict[str, pd.DataFrame]]:
    """Every curve's mean height over the logarithm of the number of patches, image by image.

    A rule's points are, for each k, the logarithm of the mean number of different patches over all seeds and images, and the
    accuracy; straight lines join them. All rules are integrated between the same two numbers of patches, the range that all
    curves cover (the largest of their first points to the smallest of their last ones), and the area is divided by the
    range's width, so that it is an accuracy. With the numbers of patches held fixed, it is a weighted sum of an image's hits
    at each k.
    Returns the range, and by rule these sums, seeds by test images. Raises DataError where the curves share no range.
    """
    places = records.groupby(["rule", "k"], observed=True)["patches"].mean().unstack("rule")
    low, high = places.min().max(), places.max().min()
    if not low < high:
        raise DataError("the curves share no range of numbers of patches: compute them with more values of k")
    values = {}
    for rule, frame in records.groupby("rule", observed=True):
        weights = _weights(places[rule], low, high)
        sums = frame.assign(value=frame["correct"] * frame["k"].map(weights)).groupby(["seed", "id"])["value"].sum()
        values[rule] = sums.unstack("id").round(9)  # what is equal but for the order of its sums is equal
    return (low, high), values


def areas(records: pd.DataFrame) -> pd.DataFrame:
    """One number a curve: the mean of its `heights`, the area under it, one row per rule.

    Intervals are of the bootstrap over seeds and images together, the same draws for all rules (`statistics.bootstrap`).
    Columns: area, low, high (95% interval); enough (patches at the smallest k from which on less than LOSS of the accuracy
    with all patches is lost; nan where that is never so); difference, difference_low, difference_high (BEST minus this rule,
    paired by seed and image), p (of it: two-sided, of the same bootstrap, corrected for the number of rules by Holm's
    method), nan for BEST; fewest, most (patches: the range).
    """
    (low, high), values = heights(records)
    hits, places = (
        records.groupby(["rule", "k"], observed=True)[column].mean().unstack("rule") for column in ("correct", "patches")
    )
    whole, rows = hits.loc[hits.index.max(), BEST], {}
    for rule in values:
        rows[rule] = dict(zip(("area", "low", "high"), interval(values[rule]), strict=True))
        lost = (hits[rule] <= whole - LOSS)[::-1].cummax()[::-1]
        rows[rule]["enough"] = places.loc[~lost, rule].min()
    for rule in values.keys() - {BEST}:
        apart = values[BEST] - values[rule]
        names = ("difference", "difference_low", "difference_high", "p")
        rows[rule] |= zip(names, (*interval(apart), p_value(apart)), strict=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("rule")
    return table.assign(p=holm(table["p"]), fewest=low, most=high)


def _weights(places, low, high):
    """By k, the weight of its accuracy in the curve's mean height over log(patches) between low and high.

    The curve is a sum of hats, one for each of its points, so each weight is the area under a hat.
    """
    points = np.log(places[~places.duplicated()])  # a larger k that adds no patch adds no point
    corners = np.log(np.unique([low, high, *places.clip(low, high)]))
    hats = [np.interp(corners, points, hat) for hat in np.eye(len(points))]
    return pd.Series(trapezoid(hats, corners) / np.log(high / low), points.index).reindex(places.index, fill_value=0.0)
