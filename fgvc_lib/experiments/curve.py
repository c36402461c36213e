"""How many patches the last layer needs: a trained model as it is, its last layer shown fewer and fewer of them."""

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..datasets import box_views, eval_loader
from ..errors import ConfigError
from ..part_selection import FUSIONS, RANDOM, select
from ..runs import Run
from ..training import load_model
from ..vit import VisionTransformer
from .ablation import SCHEMA, origin
from .localisation import model_patches, patches_in, tested_images

ON_BIRD = "random_on_bird"


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
    """Test a finished run's model with all patches below its last layer, and there only those that the heads choose.

    Nothing is trained. Each of the K heads chooses its k best patches by a rule, and the last layer sees the class token and
    the patches that any head chose, each of them once: with k = N it is the plain model, whatever the rule.
    ks: patches a head; None: 1, 2, 4, ..., and all N.
    Returns one row per rule, k and test image: rule (categorical: one of FUSIONS; RANDOM, each head draws k patches; where
    boxes are known ON_BIRD, each head draws k of the patches whose centre lies in the box, or takes all if there are not as
    many), k, id, correct, patches (how many different ones the last layer saw). Larger k keep what smaller ones kept.
    Runs on a GPU where there is one. Raises ConfigError for a run without patches and a class token to leave them out for,
    and for a k that is not between 1 and N.
    """
    model, test = load_model(run), tested_images(run)
    if not isinstance(model, VisionTransformer) or model.cfg.depth < 2 or model.cfg.head != "cls":
        raise ConfigError(
            f"{run.experiment.title} cannot leave patches out of its last layer: name the run of a ViT with two layers or "
            "more and head 'cls'"
        )
    patches = len(model_patches(model))
    ks = sorted(set(ks or [*(2**power for power in range(patches.bit_length()) if 2**power < patches), patches]))
    if not 1 <= ks[0] <= ks[-1] <= patches:
        raise ConfigError(f"k must lie between 1 and the number of patches, {patches}, not {ks}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    on_bird = None
    if test.boxes is not None:
        on_bird = torch.from_numpy(patches_in(box_views(test, run.experiment), model_patches(model))).to(device)
    rules = [*FUSIONS, RANDOM, *([] if on_bird is None else [ON_BIRD])]
    generator, found, first = torch.Generator().manual_seed(run.experiment.seed), [], 0
    for images, labels in tqdm(eval_loader(test, run.experiment), "curve", unit="batch", leave=False):
        trunk = model.forward_trunk(images.to(device), keep_all=True)
        batch = slice(first, first := first + len(images))
        chances = torch.rand(len(images), model.cfg.heads, patches, generator=generator).to(device)  # as on any device
        kept = []
        for rule in rules:
            scores = chances if rule in (RANDOM, ON_BIRD) else model.part_scores(trunk, rule)
            allowed = torch.ones_like(scores[:, 0], dtype=torch.bool)
            if rule == ON_BIRD:
                allowed = on_bird[batch]
                scores = scores.masked_fill(~allowed[:, None], -1)
            order = select(scores, patches).unflatten(1, (model.cfg.heads, patches))
            kept += [torch.zeros_like(allowed).scatter(1, order[:, :, :k].flatten(1), True) & allowed for k in ks]
        kept = torch.stack(kept, dim=1)  # (B, M, N): k within rule
        right = last_layer_logits(model, trunk.tokens, kept).argmax(-1) == labels.to(device)[:, None]
        found.append(torch.stack([right, kept.sum(-1)]).cpu())
    correct, count = torch.cat(found, dim=1).mT.flatten(1).numpy()
    return pd.DataFrame({
        "rule": pd.Categorical(np.repeat(rules, len(ks) * len(test)), rules),
        "k": np.tile(np.repeat(np.array(ks, dtype=np.int16), len(test)), len(rules)),
        "id": np.tile(test.ids, len(rules) * len(ks)), "correct": correct.astype(bool), "patches": count.astype(np.int16),
    })  # fmt: skip


def curves(runs: Iterable[Run], ks: Iterable[int] | None = None) -> pd.DataFrame:
    """`curve` of runs that differ in nothing but their seed, with a column seed; `ablation.write_records` can keep it.

    Raises ConfigError if they differ in more, or not even in that.
    """
    runs = list(runs)
    settings = {
        run.experiment.replace(seed=0).hash(*(run.environment[name] for name in ("data", "weights"))) for run in runs
    }
    seeds = [run.experiment.seed for run in runs]
    if len(settings) != 1 or len(set(seeds)) < len(seeds):
        raise ConfigError("runs share a curve if they differ in their seed and in nothing else: name such runs, each once")
    frames = [curve(run, ks).assign(seed=seed) for run, seed in zip(runs, seeds, strict=True)]
    records = pd.concat(frames, ignore_index=True)
    entries = [{"seed": seed, **origin(run)} for run, seed in zip(runs, seeds, strict=True)]
    records.attrs = {"schema": SCHEMA, "runs": json.dumps(entries)}
    return records
