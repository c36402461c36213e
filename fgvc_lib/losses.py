"""Losses on top of torch's cross-entropy."""

import torch
import torch.nn.functional as F

MARGIN = 0.4  # TransFG, section 4.1: negatives closer than this cosine are pushed apart


def contrastive(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """TransFG's contrastive loss (He et al. 2022, eq. 9).

    tokens: (B, D) class tokens. labels: (B,). Pairs of one class cost 1 - cos, pairs of two classes
    max(cos - MARGIN, 0); summed over all pairs and divided by B squared. Returns a scalar.
    """
    tokens = F.normalize(tokens.float(), dim=-1)
    cosine = tokens @ tokens.T
    same = labels[:, None] == labels[None, :]
    return torch.where(same, 1 - cosine, F.relu(cosine - MARGIN)).mean()
