"""What a model makes of photographs: all that the explorer and `explain` show of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..saliency import input_gradient
from ..vit import VisionTransformer
from .pictures import to_picture


class Insight(NamedTuple):
    """What a model makes of one photograph, by rules of part selection; None is the rule of a model without it."""

    picture: np.ndarray  # (H, W, 3) in 0..1, as the model sees it
    gradient: np.ndarray  # (H, W) of the likeliest class's logit
    probabilities: dict[str | None, torch.Tensor]  # by rule, the model's own first: (C,)
    scores: dict[str, torch.Tensor]  # by rule: (K, N), see `VisionTransformer.inspect`
    attention: torch.Tensor  # (L-1, K, N) of the class token to the patches, layer by layer; empty of a CNN


@torch.no_grad()
def look_into(model: nn.Module, images: torch.Tensor, normalisation: tuple, rules: Sequence[str] = ()) -> list[Insight]:
    """images (B, 3, S, S) on the model's device -> what the model makes of each, by its own rule and, if it is a ViT, by
    `rules`, which all share one forward pass.

    normalisation: of the images, as `datasets.normalisation` gives it.
    """
    gradients = input_gradient(model, images, objective="logit").cpu().numpy()
    scores, attention = {}, torch.empty(0, len(images))
    if isinstance(model, VisionTransformer):
        trunk = model.forward_trunk(images, keep_all=True)
        seen = {rule: model.inspect(images, rule, trunk) for rule in dict.fromkeys([model.cfg.fusion, *rules])}
        logits = {rule: one.logits for rule, one in seen.items()}
        scores = {rule: one.scores.cpu() for rule, one in seen.items() if rule}
        attention = seen[model.cfg.fusion].cls_attention.cpu()
    else:
        logits = {None: model(images)}
    probabilities = {rule: values.softmax(-1).cpu() for rule, values in logits.items()}
    return [
        Insight(
            to_picture(image, normalisation),
            gradients[place],
            {rule: values[place] for rule, values in probabilities.items()},
            {rule: values[place] for rule, values in scores.items()},
            attention[:, place],
        )
        for place, image in enumerate(images.cpu())
    ]


def attention_map(values: torch.Tensor, grid: tuple[int, int], head: int | None = None) -> np.ndarray:
    """Attention (K, N) of the heads to the patches -> (rows, cols): the shares of one head, or the mean of all."""
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    return (shares.mean(0) if head is None else shares[head]).unflatten(0, grid).numpy()
