"""The Vision Transformer with overlapping patches and, on request, a Part Selection Module before its last layer.

Parameter names are timm's, with or without part selection, so a state dict of timm's plain ViT loads as it is.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .errors import ConfigError
from .part_selection import DOWNWARD, FUSIONS, RANDOM, class_row, fuse, select

HEADS = ("cls", "flatten")
SMALLEST = -80.0  # logarithm of the lowest peak of scores: e^-80, and what lies e^-7 below it, are normal in float32


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a model. Raises ConfigError where the numbers do not go together."""

    image_size: int = 224  # pixels, height and width
    patch_size: int = 16  # pixels
    stride: int = 12  # pixels from a patch to the next; less than patch_size: patches overlap
    dim: int = 768
    depth: int = 12  # L layers
    heads: int = 12  # K heads, and so K * top_k parts
    mlp_dim: int = 3072
    num_classes: int = 200
    fusion: str | None = "mul"  # one of FUSIONS, or RANDOM as a control; None: the plain ViT
    top_k: int = 1  # patches a head
    rank: int = 1  # of the approximation that fusion "lowrank" makes
    head: str = "cls"  # classify the class token, or "flatten": class and part tokens side by side
    dropout: float = 0.0
    layer_scale: float | None = None  # initial value of LayerScale (Touvron et al. 2021, CaiT, section 2), as DINOv2 has it

    def __post_init__(self):
        if self.fusion is not None and self.fusion not in (*FUSIONS, RANDOM):
            raise ConfigError(f"unknown fusion {self.fusion!r}: choose one of {', '.join(FUSIONS)}, {RANDOM}, or None")
        if self.head not in HEADS:
            raise ConfigError(f"unknown head {self.head!r}: choose one of {', '.join(HEADS)}")
        if self.head == "flatten" and self.fusion is None:
            raise ConfigError("head 'flatten' needs parts to flatten: choose a fusion, or head 'cls'")
        if not 1 <= self.stride <= self.patch_size:
            raise ConfigError(
                f"stride {self.stride} must lie between 1 and the patch size {self.patch_size}, or pixels are skipped"
            )
        if self.image_size < self.patch_size:
            raise ConfigError(f"an image of {self.image_size} pixels is smaller than a patch of {self.patch_size}")
        if self.heads < 1 or self.dim % self.heads:
            raise ConfigError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < (1 if self.fusion is None else 2):
            raise ConfigError(f"depth {self.depth} leaves no layer below the last one to select parts from")
        patches = self.grid[0] * self.grid[1]
        if not 1 <= self.top_k <= patches:
            raise ConfigError(f"top_k {self.top_k} must lie between 1 and the number of patches, {patches}")
        if self.fusion is not None and not 1 <= self.rank < self.depth:
            raise ConfigError(f"rank {self.rank} must lie between 1 and the number of fused layers, {self.depth - 1}")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of patches: (H - P) // S + 1 each way."""
        side = (self.image_size - self.patch_size) // self.stride + 1
        return side, side

    @property
    def unseen(self) -> int:
        """Pixels at the right edge, and at the lower, that lie in no patch."""
        return (self.image_size - self.patch_size) % self.stride

    def replace(self, **changes) -> "ViTConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _preset(patch_size, dim, depth, heads, mlp_dim, layer_scale=None):
    return ViTConfig(
        patch_size=patch_size, stride=patch_size, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim, layer_scale=layer_scale
    )


# ViT-B/L/H: Dosovitskiy et al. 2021, table 1. ViT-S and -Ti: Touvron et al. 2021 (DeiT), table 1. Micro: ours, for CPUs.
# ViT-S/B/L with patches of 14: DINOv2 (Oquab et al. 2023), without register tokens.
PRESETS = {
    "vit_b16": _preset(16, 768, 12, 12, 3072),
    "vit_b32": _preset(32, 768, 12, 12, 3072),
    "vit_l16": _preset(16, 1024, 24, 16, 4096),
    "vit_l32": _preset(32, 1024, 24, 16, 4096),
    "vit_h14": _preset(14, 1280, 32, 16, 5120),
    "vit_s16": _preset(16, 384, 12, 6, 1536),
    "vit_ti16": _preset(16, 192, 12, 3, 768),
    "vit_micro16": _preset(16, 128, 8, 4, 512),
    "vit_s14": _preset(14, 384, 12, 6, 1536, layer_scale=1e-5),
    "vit_b14": _preset(14, 768, 12, 12, 3072, layer_scale=1e-5),
    "vit_l14": _preset(14, 1024, 24, 16, 4096, layer_scale=1e-5),
}


class Trunk(NamedTuple):
    """The output of all layers but the last: the tokens, and the attention by which parts are selected."""

    tokens: torch.Tensor  # (B, 1+N, D) class token first
    rows: list[torch.Tensor]  # L-1 of (B, K, N+1), from `part_selection.class_row`; empty where nothing is selected
    queries_keys: list[tuple[torch.Tensor, torch.Tensor]]  # (B, K, N+1, D/K) each, of as many layers as the rule needs


class Inspection(NamedTuple):
    """What `VisionTransformer.inspect` saw; scores and parts are None for the plain ViT."""

    logits: torch.Tensor  # (B, C)
    parts: torch.Tensor | None  # (B, K * top_k) patch index, row-major, class token excluded; head by head
    scores: torch.Tensor | None  # (B, K, N) fused attention of the class token to the patches
    grid: tuple[int, int]  # (rows, cols), N = rows * cols
    cls_attention: torch.Tensor  # (L-1, B, K, N) attention of the class token to the patches, layer by layer


class PatchEmbed(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.proj = nn.Conv2d(3, cfg.dim, cfg.patch_size, cfg.stride)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, 3, H, W) -> (B, N, D)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads, self.dropout = cfg.heads, cfg.dropout
        self.qkv = nn.Linear(cfg.dim, 3 * cfg.dim)
        self.proj = nn.Linear(cfg.dim, cfg.dim)

    def forward(self, x):
        """(B, T, D) -> (B, T, D), and the queries and keys (B, K, T, D/K) it was made with."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training), q, k


class Mlp(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.dropout = cfg.dropout
        self.fc1 = nn.Linear(cfg.dim, cfg.mlp_dim)
        self.fc2 = nn.Linear(cfg.mlp_dim, cfg.dim)

    def forward(self, x):
        x = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(x), self.dropout, self.training)


class LayerScale(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((cfg.dim,), cfg.layer_scale))

    def forward(self, x):
        return x * self.gamma  # one factor a channel


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.attn = Attention(cfg)
        self.ls1 = LayerScale(cfg) if cfg.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.mlp = Mlp(cfg)
        self.ls2 = LayerScale(cfg) if cfg.layer_scale else nn.Identity()

    def forward(self, x):
        """(B, T, D) -> (B, T, D), and the attention's queries and keys."""
        update, q, k = self.attn(self.norm1(x))
        x = x + self.ls1(update)
        return x + self.ls2(self.mlp(self.norm2(x))), q, k


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021), overlapping patches and part selection (TransFG, He et al. 2022, section 3)."""

    def __init__(self, cfg: ViTConfig):
        super().__init__()
        self.cfg = cfg
        self.checkpointing = False
        rows, cols = cfg.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * cols, cfg.dim))
        self.patch_embed = PatchEmbed(cfg)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.head = nn.Linear(cfg.dim * (1 + cfg.heads * cfg.top_k if cfg.head == "flatten" else 1), cfg.num_classes)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside the layers for the backward pass, but compute them again: less memory, more time."""
        self.checkpointing = enable

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) -> logits (B, C). Raises ConfigError for images of another size."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) -> tokens (B, T, D) after the last layer and its norm, class token first.

        T is 1 + N, or with part selection 1 + K * top_k: the parts stand head by head.
        """
        trunk = self.forward_trunk(images)
        return self.forward_last(trunk.tokens, self.select_parts(trunk) if self.cfg.fusion else None)

    def forward_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, D) of `forward_features` -> logits (B, C)."""
        return self.head(tokens.flatten(1) if self.cfg.head == "flatten" else tokens[:, 0])

    def forward_trunk(self, images: torch.Tensor, keep_all: bool = False) -> Trunk:
        """images (B, 3, H, W) -> the output of all layers but the last, see `Trunk`.

        keep_all: keep what any rule of part selection could ask for, not only what this model's own needs.
        """
        rows, queries_keys, fusion = [], [], self.cfg.fusion
        x = self.embed(images)
        for block in self.blocks[:-1]:
            x, q, k = self._through(block, x)
            if fusion or keep_all:
                rows.append(class_row(q, k))
                queries_keys = [*queries_keys, (q, k)] if keep_all or fusion in DOWNWARD else [(q, k)]
        return Trunk(x, rows, queries_keys)

    def part_scores(self, trunk: Trunk, fusion: str | None = None) -> torch.Tensor:
        """The class token's fused attention to the patches, (B, K, N), by the model's own rule or another; of `mul` the
        logarithm, see `part_selection.fuse`."""
        return fuse(trunk.rows, fusion or self.cfg.fusion, trunk.queries_keys, self.cfg.rank)

    def select_parts(self, trunk: Trunk) -> torch.Tensor:
        """The parts (B, K * top_k) that the model's own rule selects."""
        return select(self.part_scores(trunk), self.cfg.top_k)

    def forward_last(self, tokens: torch.Tensor, parts: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (B, 1+N, D) below the last layer -> (B, T, D) above it and its norm.

        parts: (B, P) patch indices; only they and the class token are kept, T is 1 + P. None: all are.
        """
        if parts is not None:
            index = (parts + 1)[..., None].expand(-1, -1, tokens.shape[-1])  # +1: the class token stands first
            tokens = torch.cat([tokens[:, :1], tokens.gather(1, index)], dim=1)
        return self.norm(self._through(self.blocks[-1], tokens)[0])

    def _through(self, block, x):
        if self.checkpointing and self.training:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    @torch.no_grad()
    def inspect(self, images: torch.Tensor, fusion: str | None = None, trunk: Trunk | None = None) -> Inspection:
        """images (B, 3, H, W) -> the logits and all that led to the parts, see `Inspection`.

        fusion: look through another rule than the model's own. trunk: of these images, `forward_trunk(images, True)`, where
        it is known already; the layers below the last one do not depend on the rule.
        The scores of `mul`, a product of L-1 numbers below 1, are scaled up by a factor a head where float32 has no number
        as small, which in deep models it has not.
        """
        fusion, trunk = fusion or self.cfg.fusion, trunk or self.forward_trunk(images, keep_all=True)
        parts = scores = None
        if fusion:
            scores = self.part_scores(trunk, fusion)
            parts = select(scores, self.cfg.top_k)
            if fusion == "mul":
                scores = (scores + (SMALLEST - scores.amax(-1, keepdim=True)).clamp(min=0)).exp()
        logits = self.forward_head(self.forward_last(trunk.tokens, parts))
        return Inspection(logits, parts, scores, self.cfg.grid, torch.stack(trunk.rows)[..., 1:].exp())

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 1+N, D): the patches and their positions, class token first."""
        if images.ndim != 4 or images.shape[1:] != (3, self.cfg.image_size, self.cfg.image_size):
            size = self.cfg.image_size
            raise ConfigError(f"the model takes images of shape (B, 3, {size}, {size}), not {tuple(images.shape)}")
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        return F.dropout(x + self.pos_embed, self.cfg.dropout, self.training)


def _initialise(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
