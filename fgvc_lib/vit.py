"""The Vision Transformer with overlapping patches and, on request, a Part Selection Module before its last layer.

Parameter names are timm's, with or without part selection, so a state dict of timm's plain ViT loads as it is.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .errors import ConfigError
from .part_selection import DOWNWARD, FUSIONS, RANDOM, class_row, fuse, select

HEADS = ("cls", "flatten")


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

    def replace(self, **changes) -> "ViTConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _preset(patch_size, dim, depth, heads, mlp_dim):
    return ViTConfig(patch_size=patch_size, stride=patch_size, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim)


# ViT-B/L/H: Dosovitskiy et al. 2021, table 1. ViT-S and -Ti: Touvron et al. 2021 (DeiT), table 1. Micro: ours, for CPUs.
PRESETS = {
    "vit_b16": _preset(16, 768, 12, 12, 3072),
    "vit_b32": _preset(32, 768, 12, 12, 3072),
    "vit_l16": _preset(16, 1024, 24, 16, 4096),
    "vit_l32": _preset(32, 1024, 24, 16, 4096),
    "vit_h14": _preset(14, 1280, 32, 16, 5120),
    "vit_s16": _preset(16, 384, 12, 6, 1536),
    "vit_ti16": _preset(16, 192, 12, 3, 768),
    "vit_micro16": _preset(16, 128, 8, 4, 512),
}


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


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.attn = Attention(cfg)
        self.norm2 = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.mlp = Mlp(cfg)

    def forward(self, x):
        """(B, T, D) -> (B, T, D), and the attention's queries and keys."""
        update, q, k = self.attn(self.norm1(x))
        x = x + update
        return x + self.mlp(self.norm2(x)), q, k


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021), overlapping patches and part selection (TransFG, He et al. 2022, section 3)."""

    def __init__(self, cfg: ViTConfig):
        super().__init__()
        self.cfg = cfg
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

    def forward(self, images: torch.Tensor, details: bool = False):
        """images (B, 3, H, W) -> logits (B, C).

        details: return also the class token (B, D) they come from and the parts (B, K * top_k), None for the plain ViT.
        """
        x, parts, fusion = self._embed(images), None, self.cfg.fusion
        rows, layers = [], []
        for block in self.blocks[:-1]:
            x, q, k = block(x)
            if fusion:
                rows.append(class_row(q, k))
                layers = [*layers, (q, k)] if fusion in DOWNWARD else [(q, k)]
        if fusion:
            parts = select(fuse(rows, fusion, layers, self.cfg.rank), self.cfg.top_k)
            x = _keep(x, parts)
        logits, token = self._classify(x)
        return (logits, token, parts) if details else logits

    @torch.no_grad()
    def inspect(self, images: torch.Tensor, fusion: str | None = None) -> Inspection:
        """images (B, 3, H, W) -> the logits and all that led to the parts, see `Inspection`.

        fusion: look through another rule than the model's own. The scores of `mul` are a product of L-1 numbers below 1
        and may underflow where there are more than some 15 layers; the parts, chosen by logarithms, stay right.
        """
        fusion = fusion or self.cfg.fusion
        x = self._embed(images)
        layers = []
        for block in self.blocks[:-1]:
            x, q, k = block(x)
            layers.append((q, k))
        rows = [class_row(q, k) for q, k in layers]
        parts = scores = None
        if fusion:
            scores = fuse(rows, fusion, layers, self.cfg.rank)
            parts = select(scores, self.cfg.top_k)
            x, scores = _keep(x, parts), scores.exp() if fusion == "mul" else scores
        return Inspection(self._classify(x)[0], parts, scores, self.cfg.grid, torch.stack(rows)[..., 1:].exp())

    def _embed(self, images):
        """(B, 3, H, W) -> (B, 1+N, D), class token first."""
        if images.ndim != 4 or images.shape[1:] != (3, self.cfg.image_size, self.cfg.image_size):
            size = self.cfg.image_size
            raise ConfigError(f"the model takes images of shape (B, 3, {size}, {size}), not {tuple(images.shape)}")
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        return F.dropout(x + self.pos_embed, self.cfg.dropout, self.training)

    def _classify(self, x):
        """Tokens (B, T, D) before the last layer -> logits (B, C) and the class token (B, D)."""
        x = self.norm(self.blocks[-1](x)[0])
        return self.head(x.flatten(1) if self.cfg.head == "flatten" else x[:, 0]), x[:, 0]


def _keep(x, parts):
    """(B, 1+N, D) and (B, P) patch indices -> (B, 1+P, D): the class token and the chosen patches."""
    index = (parts + 1)[..., None].expand(-1, -1, x.shape[-1])  # +1: the class token stands first
    return torch.cat([x[:, :1], x.gather(1, index)], dim=1)


def _initialise(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
