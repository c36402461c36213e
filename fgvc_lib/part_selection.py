"""Part selection: fuse the attention of the first L-1 layers, take the patch each head looks at most.

All a rule needs is how the class token attends, one row of N+1 weights a layer and head, so the model's path
(`class_row`, `fuse`, `select`) never holds an (N+1) x (N+1) map per layer. `fuse_dense` is the same thing on
full attention maps, as the formulas are written in the report; the tests hold the two against each other.
"""

from collections.abc import Sequence

import torch

# Layers are numbered 1 .. L-1 from the input; A_l is the attention of layer l after its softmax.
FUSIONS = ("add", "matmul", "lastlayer", "mul")

# Query rows that `_left_multiply` turns into attention weights at a time: bounds its memory, not its result.
CHUNK = 256


def check_fusion(fusion: str) -> None:
    """Raise ValueError, naming the known rules, if `fusion` is none of them."""
    if fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")


def fuse_dense(attentions: Sequence[torch.Tensor], fusion: str) -> torch.Tensor:
    """Fuse full attention maps, literally by the report's formulas.

    attentions: L-1 tensors (B, K, N+1, N+1), the softmax attention of layers 1 to L-1, class token first.
    fusion: `add` sums the maps; `mul` multiplies them element by element; `lastlayer` takes A_{L-1};
        `matmul` is the matrix product A_{L-1} ... A_1 (TransFG, He et al. 2022, eq. 6).
    Returns (B, K, N): how much the class token attends to each patch.
    Raises ValueError for an unknown rule.
    """
    check_fusion(fusion)
    fused = attentions[-1]
    for attention in reversed(attentions[:-1]):
        if fusion == "add":
            fused = fused + attention
        elif fusion == "mul":
            fused = fused * attention
        elif fusion == "matmul":
            fused = fused @ attention
    return fused[:, :, 0, 1:]


@torch.no_grad()
def class_row(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Log attention weights of the class token.

    q, k: (B, K, N+1, d) queries and keys of one layer, class token first. Returns (B, K, N+1), at least float32.
    """
    return _log_attention(q[:, :, :1], k).squeeze(2)


@torch.no_grad()
def fuse(rows: Sequence[torch.Tensor], fusion: str, queries_keys: Sequence[tuple] = ()) -> torch.Tensor:
    """Fuse class-token rows into one log score per patch.

    rows: L-1 tensors (B, K, N+1) from `class_row`, layer 1 first.
    queries_keys: for `matmul`, the (q, k) of each layer, (B, K, N+1, d) each, layer 1 first; else unused.
    Returns (B, K, N): the logarithm of what `fuse_dense` gives. The logarithm is what keeps `mul` alive: the
    plain product of eleven softmax rows is about N^-11, zero in half precision, and would pick patch 0.
    """
    check_fusion(fusion)
    if fusion == "mul":
        fused = torch.stack(tuple(rows)).sum(0)
    elif fusion == "add":
        fused = torch.stack(tuple(rows)).logsumexp(0)
    else:
        fused = rows[-1]
    if fusion == "matmul":
        row = fused.exp()
        for q, k in reversed(queries_keys[:-1]):
            row = _left_multiply(row, q, k)
        fused = row.log()
    return fused[:, :, 1:]


def select(scores: torch.Tensor) -> torch.Tensor:
    """(B, K, N) scores -> (B, K) the best patch of each head, 0-based, row-major, class token excluded."""
    return scores.argmax(dim=-1)


def _log_attention(q, k):
    """(B, K, M, d), (B, K, N+1, d) -> (B, K, M, N+1) log softmax rows, float32 or better whatever the autocast."""
    with torch.autocast(q.device.type, enabled=False):
        exact = torch.promote_types(q.dtype, torch.float32)
        return (q.to(exact) @ k.to(exact).transpose(-2, -1) * q.shape[-1] ** -0.5).log_softmax(dim=-1)


def _left_multiply(row, q, k):
    """(B, K, N+1) row times the (N+1) x (N+1) attention of (q, k), a chunk of its rows at a time -> (B, K, N+1)."""
    result = torch.zeros_like(row)
    for start in range(0, q.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        result += (row[:, :, None, part] @ _log_attention(q[:, :, part], k).exp()).squeeze(2)
    return result
