"""Pre-trained weights into a model, array by array: each is used, or accounted for in words, or refused."""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from math import isqrt
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import WeightsError
from ..vit import PRESETS
from .files import read_weights
from .layouts import CLASSIFIERS, google_name, to_timm

# Arrays that are safe to leave out where the model has none of that name: other classifiers, the layer before Google's, what
# only pre-training used, and counters. Anything else would change the logits.
HARMLESS = re.compile(
    r"(heads?|head_dist|fc|classifier|pre_logits|pooler|decoder\w*|optimizer)\b.*|mask_token|epoch|args|.*num_batches_tracked"
)
# How other models are known by the names of their arrays, a line each.
LOOKS = {
    "a ViT's with register tokens: take the one without": r"reg(ister)?_tokens?\b",
    "a Swin Transformer's": r"swin|(layers|features)\.\d+\.(blocks\.)?\d+\.attn",
    "a BEiT's": r"q_bias|relative_position",
    "a CLIP's, of images and texts": r"(?s)\A(?=.*(text_model|token_embedding))(?=.*(visual|vision_model))",
    "a CLIP text model's": r"text_model|token_embedding|text_projection",
    "a CLIP image model's": r"class_embedding|ln_pre|pre_layrnorm|norm_pre",
    "a language model's": r"word_embeddings|\bwte\b|embed_tokens",
    "an EfficientNet's": r"conv_stem|features\.\d+\.\d+\.block\.\d\.\d",
    "a ConvNeXt's": r"downsample_layers|stages.{0,60}(conv_dw|dwconv)|features\.\d+\.\d+\.block\.0\.weight",
    "a ResNet's with a ViT on top": r"conv_root|patch_embed\.backbone",
    "a ResNet's": r"resnet|layer\d\.\d+\.conv\d",
}


class LoadReport(NamedTuple):
    """Parameter names: loaded as they are, resized to the model's grid, and left as the model had them; and the checkpoint's
    own names of the arrays that are not used."""

    loaded: list[str]
    resized: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self):
        groups = Counter(re.split(r"[./]", name)[0] if len(self.unused) > 9 else name for name in self.unused)
        unused = [f"{name} ({count} arrays)" if count > 1 else name for name, count in groups.items()]
        lists = {"resized": self.resized, "left fresh": self.fresh, "not used": unused}
        parts = [f"{words}: {', '.join(names) or 'none'}" for words, names in lists.items()]
        return "; ".join([f"{len(self.loaded)} tensors loaded", *parts])


def load_pretrained(
    model: nn.Module, source, init_last_block: bool = False, positions: Literal["bilinear", "bicubic"] = "bilinear"
) -> LoadReport:
    """Load weights into `model` in place.

    source: a file, see `read_weights`, or a state dict, wrapped or not, with the names of any library that `layouts` knows.
    Position embeddings are resized on their grid; the classifier stays fresh where its shape differs or it is
    missing. init_last_block: leave the last transformer layer fresh too, as TransFG's code does. positions: how they are
    resized, see `resize_pos_embed`.
    Raises WeightsError, naming the array, if another one is missing, has a wrong shape or is not of finite floats, if the
    checkpoint holds one that the model has no place for (unless it is HARMLESS), or if the file is damaged.
    """
    tree, origin = (source, "the state dict") if isinstance(source, Mapping) else (read_weights(source), source)
    wanted = model.state_dict()
    try:
        state, names, unused = to_timm(tree, wanted)
    except WeightsError as error:
        raise WeightsError(f"{origin}: {error}") from None
    looks = _looks(state, names, model)
    if "pos_embed" in wanted and "pos_embed" in state:
        state["pos_embed"] = _with_class_token(state["pos_embed"], "dist_token" in state, origin)
        if state.pop("dist_token", None) is not None:
            unused.append(names["dist_token"])
            print(f"{origin}: the distillation token, {names['dist_token']}, is left out, since the model has none.")
    last_block = f"blocks.{len(model.blocks) - 1}." if init_last_block and hasattr(model, "blocks") else None
    chosen, report = {}, LoadReport([], [], [], unused)
    for name, target in wanted.items():
        value, called = state.pop(name, None), names.get(name, name)
        if (
            (last_block and name.startswith(last_block))
            or (name in CLASSIFIERS and (value is None or value.shape != target.shape))
            or (value is None and name.endswith("num_batches_tracked"))
        ):
            report.fresh.append(name)
            unused += [called] * (value is not None)
        elif value is None:
            if any(one.endswith("/kernel") for one in names.values()):
                with suppress(KeyError):  # Google's ViTs have no such array
                    called = google_name(name)
            raise WeightsError(f"{origin} has no array {called}: it is not a checkpoint of this model{looks}")
        elif value.shape != target.shape and not (name == "pos_embed" and value.shape[::2] == target.shape[::2]):
            raise WeightsError(
                f"{origin}: the array {called} gives {name} the shape {tuple(value.shape)}, "
                f"the model needs {tuple(target.shape)}{looks}"
            )
        elif value.is_floating_point() < target.is_floating_point():
            raise WeightsError(
                f"{origin}: the array {called} holds {value.dtype}, no floats: take a checkpoint that is not quantised"
            )
        elif value.shape != target.shape:
            chosen[name] = resize_pos_embed(value, model.cfg.grid, positions)
            report.resized.append(name)
        else:
            chosen[name] = value
            report.loaded.append(name)
        if name in chosen and not chosen[name].float().isfinite().all():
            raise WeightsError(f"{origin}: the array {called} holds numbers that are not finite: take another checkpoint")
    if extra := [names[name] for name in state if not HARMLESS.fullmatch(name)]:
        more = f" and {len(extra) - 1} more arrays" if len(extra) > 1 else ""
        raise WeightsError(f"{origin} holds {extra[0]}{more}, which this model has no place for{looks}")
    unused += [names[name] for name in state]
    model.load_state_dict(chosen, strict=False)
    return report


def resize_pos_embed(
    pos_embed: torch.Tensor, grid: tuple[int, int], how: Literal["bilinear", "bicubic"] = "bilinear"
) -> torch.Tensor:
    """(1, 1+n*n, D) -> (1, 1+rows*cols, D), resized on the grid.

    how: "bilinear", corners aligned, as Google's ViT code does; "bicubic", anti-aliased and corners not aligned, as DINOv2's
    and timm's do. Raises WeightsError for patches that are not a square grid.
    """
    token, patches = pos_embed[:, :1], pos_embed[:, 1:]
    side = isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise WeightsError(f"pos_embed holds {patches.shape[1]} patches, which are not a square grid")
    patches = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    options = {"align_corners": True} if how == "bilinear" else {"antialias": True}
    patches = F.interpolate(patches, size=grid, mode=how, **options)
    return torch.cat([token.float(), patches.flatten(2).transpose(1, 2)], dim=1)


def _with_class_token(pos_embed, distilled, origin):
    """Positions as (1, 1+n*n, D): without that of DeiT's distillation token; 0 for a class token without one (DeiT III)."""
    if distilled and pos_embed.ndim == 3:
        pos_embed = torch.cat([pos_embed[:, :1], pos_embed[:, 2:]], dim=1)
    count = pos_embed.shape[1] if pos_embed.ndim == 3 else 0
    if count > 1 and isqrt(count - 1) ** 2 == count - 1:
        return pos_embed
    if isqrt(count) ** 2 != count or not count:
        raise WeightsError(
            f"{origin}: the position embeddings have the shape {tuple(pos_embed.shape)}, which is no square grid of patches "
            "and a class token: take a checkpoint of square images"
        )
    return F.pad(pos_embed, (0, 0, 1, 0))


def _looks(state, names, model):
    """The end of a message: which model the arrays are of, where they are not `model`'s."""
    text = "\n".join(names.values())
    for words, pattern in LOOKS.items():
        if re.search(pattern, text):
            return f"; its arrays look like {words}"
    patches, mlp = state.get("patch_embed.proj.weight"), state.get("blocks.0.mlp.fc1.weight")
    if patches is None or mlp is None or not patches.ndim or not mlp.ndim:
        return ""
    known = PRESETS | ({"": model.cfg} if hasattr(model, "cfg") else {})
    layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    words = _shape(len(patches), patches.shape[-1], layers, len(mlp), "blocks.0.ls1.gamma" in state)
    shapes = {name: _shape(c.dim, c.patch_size, c.depth, c.mlp_dim, c.layer_scale) for name, c in known.items()}
    if shapes.pop("", "") == words:
        return ""
    fits = [f": choose the model {name}" for name, shape in shapes.items() if shape == words]
    return f"; its arrays are a ViT's of {words}{''.join(fits[:1])}"


def _shape(dim, patch_size, depth, mlp_dim, scaled):
    return f"{depth} layers of {dim} with mlp_dim {mlp_dim}, patches of {patch_size}, {'' if scaled else 'no '}LayerScale"
