"""Pre-trained weights into the models: Google's .npz, .safetensors, .pth, or a state dict such as timm's."""

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from .errors import WeightsError
from .files import write_whole

CLASSIFIERS = ("head.weight", "head.bias", "fc.weight", "fc.bias")
# Names in a checkpoint that are safe to ignore where the model has no such array: other classifiers, the layer before
# Google's, what only pre-training used, and counters. Anything else would change the logits.
HARMLESS = re.compile(r"(head|head_dist|fc|classifier|pre_logits)\b.*|mask_token|optimizer|epoch|args|.*num_batches_tracked")


class LoadReport(NamedTuple):
    """Parameter names: loaded as they are, resized to the model's grid, and left as the model had them."""

    loaded: list[str]
    resized: list[str]
    fresh: list[str]

    def __str__(self):
        parts = [f"{len(self.loaded)} tensors loaded", f"resized: {', '.join(self.resized) or 'none'}"]
        return "; ".join([*parts, f"left fresh: {', '.join(self.fresh) or 'none'}"])


def load_pretrained(
    model: nn.Module, source, init_last_block: bool = False, positions: Literal["bilinear", "bicubic"] = "bilinear"
) -> LoadReport:
    """Load weights into `model` in place.

    source: a path to Google's .npz, a .safetensors or a .pth / .pt file, or a state dict with timm's names.
    Position embeddings are resized on their grid; the classifier stays fresh where its shape differs or it is
    missing. init_last_block: leave the last transformer layer fresh too, as TransFG's code does. positions: how they are
    resized, see `resize_pos_embed`.
    Raises WeightsError, naming the array, if another one is missing or has a wrong shape, if the checkpoint holds one that
    the model has no place for (unless it is HARMLESS), or if the file is damaged.
    """
    state, origin = (source, "the state dict") if isinstance(source, Mapping) else (read_weights(source), source)
    wanted = model.state_dict()
    last_block = f"blocks.{len(model.blocks) - 1}." if init_last_block and hasattr(model, "blocks") else None
    chosen, report = {}, LoadReport([], [], [])
    for name, target in wanted.items():
        value = state.get(name)
        if (
            (last_block and name.startswith(last_block))
            or (name in CLASSIFIERS and (value is None or value.shape != target.shape))
            or (value is None and name.endswith("num_batches_tracked"))
        ):
            report.fresh.append(name)
        elif value is None:
            raise WeightsError(f"{origin} has no array {_source_name(name, origin)}: it is not a checkpoint of this model")
        elif name == "pos_embed" and value.shape != target.shape and value.shape[-1] == target.shape[-1]:
            chosen[name] = resize_pos_embed(value, model.cfg.grid, positions)
            report.resized.append(name)
        elif value.shape != target.shape:
            raise WeightsError(
                f"{origin}: the array {_source_name(name, origin)} gives {name} the shape {tuple(value.shape)}, "
                f"the model needs {tuple(target.shape)}"
            )
        else:
            chosen[name] = value
            report.loaded.append(name)
    if extra := [name for name in state if name not in wanted and not HARMLESS.fullmatch(name)]:
        more = f" and {len(extra) - 1} more arrays" if len(extra) > 1 else ""
        raise WeightsError(f"{origin} holds {_source_name(extra[0], origin)}{more}, which this model has no place for")
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
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise WeightsError(f"pos_embed holds {patches.shape[1]} patches, which are not a square grid")
    patches = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    options = {"align_corners": True} if how == "bilinear" else {"antialias": True}
    patches = F.interpolate(patches, size=grid, mode=how, **options)
    return torch.cat([token.float(), patches.flatten(2).transpose(1, 2)], dim=1)


def read_weights(path) -> dict[str, torch.Tensor]:
    """The state dict that a file holds, with timm's or torchvision's names. Raises WeightsError for an unreadable file."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"the weights file {path} is missing: put it there (`make data` fetches those of profile full)")
    card = path.with_suffix(".md")  # of those that `pretrain` writes
    known = re.search(r"SHA-256 \| ([0-9a-fA-F]{64})", card.read_text(errors="replace")) if card.is_file() else None
    if known and hashlib.sha256(path.read_bytes()).hexdigest() != known[1].lower():
        raise WeightsError(
            f"{path} does not match the SHA-256 in {card.name}: restore both, or make both again with `pretrain`"
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _from_google({name: arrays[name] for name in arrays.files})
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, Mapping):
                raise ValueError("it holds no state dict")
            return state
    except WeightsError:
        raise
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile,
            safetensors.SafetensorError) as error:  # fmt: skip
        raise WeightsError(f"{path} cannot be read as weights ({error}): fetch it again") from error
    raise WeightsError(f"{path} ends in {path.suffix!r}: weights are .npz, .safetensors, .pth or .pt files")


_QKV = ("query", "key", "value")
_ANY = "{query,key,value}"
# timm's name in a block -> Google's, below Transformer/encoderblock_{n}/. `qkv` is three arrays there.
_BLOCK = {
    "norm1.weight": "LayerNorm_0/scale",
    "norm1.bias": "LayerNorm_0/bias",
    "attn.qkv.weight": f"MultiHeadDotProductAttention_1/{_ANY}/kernel",
    "attn.qkv.bias": f"MultiHeadDotProductAttention_1/{_ANY}/bias",
    "attn.proj.weight": "MultiHeadDotProductAttention_1/out/kernel",
    "attn.proj.bias": "MultiHeadDotProductAttention_1/out/bias",
    "norm2.weight": "LayerNorm_2/scale",
    "norm2.bias": "LayerNorm_2/bias",
    "mlp.fc1.weight": "MlpBlock_3/Dense_0/kernel",
    "mlp.fc1.bias": "MlpBlock_3/Dense_0/bias",
    "mlp.fc2.weight": "MlpBlock_3/Dense_1/kernel",
    "mlp.fc2.bias": "MlpBlock_3/Dense_1/bias",
}
_TOP = {
    "cls_token": "cls",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
    "patch_embed.proj.weight": "embedding/kernel",
    "patch_embed.proj.bias": "embedding/bias",
    "norm.weight": "Transformer/encoder_norm/scale",
    "norm.bias": "Transformer/encoder_norm/bias",
    "head.weight": "head/kernel",
    "head.bias": "head/bias",
}


def save_google(model: nn.Module, path: Path) -> None:
    """Write a ViT's weights as an .npz in Google's layout, in half precision."""
    heads, arrays = model.cfg.heads, {}
    for name, tensor in model.state_dict().items():
        google, array = _google_name(name), tensor.half().cpu().numpy()
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        elif array.ndim == 2:
            array = array.T
        if "attn.qkv" in name:
            for part, third in zip(_QKV, np.split(array, 3, axis=-1), strict=True):
                arrays[google.replace(_ANY, part)] = third.reshape(*third.shape[:-1], heads, -1)  # (…, K*d) -> (…, K, d)
        else:
            arrays[google] = array.reshape(heads, -1, array.shape[-1]) if "attn.proj.weight" in name else array
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def _google_name(name):
    if name.startswith("blocks."):
        _, block, rest = name.split(".", 2)
        return f"Transformer/encoderblock_{block}/{_BLOCK[rest]}"
    return _TOP[name]


def _source_name(name, origin):
    known = name in _TOP or name.startswith("blocks.")
    return _google_name(name) if known and str(origin).endswith(".npz") else name


def _from_google(arrays):
    """Google's arrays -> state dict with timm's names; arrays that those have no name for keep their own."""
    left, state = dict(arrays), {}
    blocks = {match[1] for match in (re.match(r"Transformer/encoderblock_(\d+)/", key) for key in arrays) if match}
    for name in [*_TOP, *(f"blocks.{block}.{rest}" for block in sorted(blocks, key=int) for rest in _BLOCK)]:
        google = _google_name(name)
        sources = [google.replace(_ANY, part) for part in _QKV] if _ANY in google else [google]
        if any(source not in left for source in sources):
            continue  # `load_pretrained` says which is missing
        found = [left.pop(source) for source in sources]
        if len({array.shape for array in found}) > 1:
            raise WeightsError(f"the arrays {google} differ in shape: {', '.join(str(array.shape) for array in found)}")
        if "attn.qkv" in name:  # (D, K, d) -> (D, K*d) and (K, d) -> (K*d,), side by side
            found = [array.reshape(len(array), -1) if name.endswith("weight") else array.ravel() for array in found]
        array = np.concatenate(found, axis=-1) if len(found) > 1 else found[0]
        if "attn.proj.weight" in name:
            array = array.reshape(-1, array.shape[-1])  # (K, d, D) -> (K*d, D)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        elif array.ndim == 2:
            array = array.T
        state[name] = torch.from_numpy(np.array(array, dtype=np.float32))
    return state | left
