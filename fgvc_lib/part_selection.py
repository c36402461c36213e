"""Part selection: fuse the attention of the first L-1 layers, take the patches each head looks at most.

All a rule needs is how the class token attends, one row of N+1 weights a layer and head, so the model's path
(`class_row`, `fuse`, `select`) never holds an (N+1) x (N+1) map per layer. `fuse_dense` is the same thing on
full attention maps, as the formulas are written in the course report; the tests hold the two against each other.
"""

from collections.abc import Sequence

import torch

# The course report's four; attention rollout; a low-rank fusion, which the course report suggests for later; FFVT's rule.
FUSIONS = ("add", "matmul", "lastlayer", "mul", "rollout", "lowrank", "maws")

# Not a rule but a control: as many patches, chosen at random.
RANDOM = "random"

# Rules that carry the class row down through every layer's attention, and so need all queries and keys.
DOWNWARD = ("matmul", "rollout")

# Query rows that `_left_multiply` turns into attention weights at a time: bounds its memory, not its result.
CHUNK = 128


def check_fusion(fusion: str, rank: int, layers: int) -> None:
    """Raise ValueError, naming what is allowed, for an unknown rule or a rank that `layers` fused layers cannot have."""
    if fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")
    if not 1 <= rank <= layers:
        raise ValueError(f"rank {rank} must lie between 1 and the number of fused layers, {layers}")


def fuse_dense(
    attentions: Sequence[torch.Tensor], fusion: str, rank: int = 1, raw: torch.Tensor | None = None
) -> torch.Tensor:
    """Fuse full attention maps, literally by the formulas.

    attentions: A_1 .. A_{L-1}, the softmax attention of layers 1 to L-1 from the input, (B, K, N+1, N+1) each, class
        token first.
    fusion: `add` sums the maps; `mul` multiplies them element by element; `lastlayer` takes A_{L-1};
        `matmul` is the matrix product A_{L-1} ... A_1 (TransFG, He et al. 2022, eq. 6);
        `rollout` the same product of (A_l + I) / 2 (attention rollout, Abnar & Zuidema 2020, here a map a head);
        `lowrank` stacks the class token's rows, layers x patches, takes the best approximation of that `rank` in the
        least-squares sense (Eckart & Young 1936), and averages its rows;
        `maws` is the class token's row of A_{L-1} times its column of `raw` after a softmax over the queries (mutual
        attention weight selection, FFVT, Wang et al. 2021).
    raw: for `maws`, layer L-1's scaled scores before the softmax, (B, K, N+1, N+1).
    Returns (B, K, N): how much the class token attends to each patch.
    Raises ValueError for an unknown rule or a rank out of range.
    """
    check_fusion(fusion, rank, len(attentions))
    if fusion == "lowrank":
        u, s, v = torch.linalg.svd(torch.stack([a[:, :, 0, 1:] for a in attentions], dim=2), full_matrices=False)
        return (u[..., :rank] * s[..., None, :rank] @ v[..., :rank, :]).mean(dim=2)
    if fusion == "maws":
        return (attentions[-1] * raw.softmax(dim=-2).mT)[:, :, 0, 1:]
    if fusion == "rollout":
        attentions = [(a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)) / 2 for a in attentions]
    fused = attentions[-1]
    for attention in reversed(attentions[:-1]):
        if fusion == "add":
            fused = fused + attention
        elif fusion == "mul":
            fused = fused * attention
        elif fusion in DOWNWARD:
            fused = fused @ attention
        elif fusion != "lastlayer":
            raise NotImplementedError(f"fusion {fusion!r} has no formula in fuse_dense")
    return fused[:, :, 0, 1:]


@torch.no_grad()
def class_row(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Log attention weights of the class token, (B, K, N+1), float32 or better whatever the autocast.

    q, k: (B, K, N+1, d) queries and keys of one layer, class token first.
    """
    with torch.autocast(q.device.type, enabled=False):
        exact = torch.promote_types(q.dtype, torch.float32)
        scores = q[:, :, :1].to(exact) @ k.to(exact).mT * q.shape[-1] ** -0.5
        return scores.squeeze(2).log_softmax(dim=-1)


@torch.no_grad()
def fuse(rows: Sequence[torch.Tensor], fusion: str, queries_keys: Sequence[tuple] = (), rank: int = 1) -> torch.Tensor:
    """Fuse class-token rows into one score a patch.

    rows: L-1 tensors (B, K, N+1) from `class_row`, layer 1 first.
    queries_keys: (q, k) of a layer, (B, K, N+1, d) each: of all, layer 1 first, for the rules in DOWNWARD; at least the
        last for `maws`; else unused.
    fusion: one of FUSIONS, or RANDOM. rank: for `lowrank`.
    Returns (B, K, N): what `fuse_dense` gives; for `mul` its logarithm, since the plain product of eleven softmax rows
    is about N^-11, zero in half precision, and would pick patch 0.
    Raises ValueError for an unknown rule, a rank out of range, or queries and keys that are missing.
    """
    if fusion == RANDOM:
        return torch.rand_like(rows[-1])[:, :, 1:]
    check_fusion(fusion, rank, len(rows))
    needed = len(rows) if fusion in DOWNWARD else int(fusion == "maws")
    if len(queries_keys) < needed:
        raise ValueError(f"fusion {fusion!r} needs the queries and keys of {needed} layers, got {len(queries_keys)}")
    if fusion == "mul":
        return torch.stack(tuple(rows)).sum(0)[:, :, 1:]
    if fusion == "add":
        return torch.stack(tuple(rows)).exp().sum(0)[:, :, 1:]
    if fusion == "lowrank":
        return _mean_of_rank(torch.stack(tuple(rows), dim=2)[..., 1:].exp(), rank)
    if fusion == "maws":
        q, k = queries_keys[-1]
        return (rows[-1] + class_row(k, q)).exp()[:, :, 1:]  # its column: the class token's key against all queries
    if fusion not in (*DOWNWARD, "lastlayer"):
        raise NotImplementedError(f"fusion {fusion!r} has no formula in fuse")
    row = rows[-1].exp()
    if fusion == "rollout":
        row = _halfway(row, torch.eye(1, row.shape[-1], dtype=row.dtype, device=row.device))
    if fusion in DOWNWARD:
        for q, k in reversed(queries_keys[:-1]):
            below = _left_multiply(row, q, k)
            row = below if fusion == "matmul" else _halfway(row, below)
    return row[:, :, 1:]


def select(scores: torch.Tensor, top_k: int = 1) -> torch.Tensor:
    """(B, K, N) scores -> (B, K * top_k) each head's best patches, best first, head by head.

    A part is a patch index, 0-based, row-major, class token excluded; two heads may choose the same one.
    Raises ValueError for a top_k that is not between 1 and N.
    """
    if not 1 <= top_k <= scores.shape[-1]:
        raise ValueError(f"top_k {top_k} must lie between 1 and the number of patches, {scores.shape[-1]}")
    return scores.topk(top_k, dim=-1).indices.flatten(1)


def _halfway(row, other):
    return (row + other) / 2


def _left_multiply(row, q, k):
    """(B, K, N+1) row times the (N+1) x (N+1) attention of (q, k), a chunk of its rows at a time -> (B, K, N+1)."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = q * q.shape[-1] ** -0.5, k.mT.contiguous()
        result = torch.zeros_like(row)
        for start in range(0, q.shape[2], CHUNK):
            part = slice(start, start + CHUNK)
            attention = (q[:, :, part] @ k).softmax(dim=-1, dtype=row.dtype)
            result += (row[:, :, None, part] @ attention).squeeze(2)
    return result


def _mean_of_rank(matrix, rank):
    """(B, K, L-1, N) -> (B, K, N) the mean row of the best approximation of that rank.

    U_r U_r^T M is that approximation, U_r the leading eigenvectors of M M^T, which is only (L-1) x (L-1); so its mean
    row is a weighted sum of M's rows. In float64, since M M^T squares the spread of the singular values.
    """
    exact = matrix.double()
    leading = torch.linalg.eigh(exact @ exact.mT).eigenvectors[..., -rank:]
    weights = leading @ leading.mean(dim=-2, keepdim=True).mT
    return (weights.mT @ exact).squeeze(-2).to(matrix.dtype)
