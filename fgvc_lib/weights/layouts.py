"""The arrays of a Vision Transformer under the names that other libraries give them, turned into timm's, which are ours."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from ..errors import WeightsError

QKV = ("query", "key", "value")
# timm's module -> that of Google's vit_jax, for those of a layer below Transformer/encoderblock_N/.
GOOGLE = {
    "cls_token": "cls",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
    "patch_embed.proj": "embedding",
    "norm": "Transformer/encoder_norm",
    "head": "head",
    "norm1": "LayerNorm_0",
    **{f"attn.{part}": f"MultiHeadDotProductAttention_1/{part}" for part in QKV},
    "attn.qkv": "MultiHeadDotProductAttention_1/{query,key,value}",
    "attn.proj": "MultiHeadDotProductAttention_1/out",
    "norm2": "LayerNorm_2",
    "mlp.fc1": "MlpBlock_3/Dense_0",
    "mlp.fc2": "MlpBlock_3/Dense_1",
}
# timm's module -> those of Hugging Face (ViT, DeiT, Dinov2), torchvision, TransFG, DeiT III and Google's big_vision.
OTHERS = {
    "cls_token": "embeddings.cls_token class_token",
    "dist_token": "embeddings.distillation_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings encoder.pos_embedding pos_embedding",
    "patch_embed.proj": "embeddings.patch_embeddings.projection conv_proj embeddings.patch_embeddings",
    "norm": "layernorm encoder.ln encoder.encoder_norm encoder.part_norm",
    "head": "classifier cls_classifier heads.head part_head",
    "head_dist": "distillation_classifier",
    "norm1": "layernorm_before ln_1 attention_norm",
    "attn.query": "attention.attention.query attention.q_proj",
    "attn.key": "attention.attention.key attention.k_proj",
    "attn.value": "attention.attention.value attention.v_proj",
    "attn.qkv.weight": "self_attention.in_proj_weight",
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj": "attention.output.dense attention.o_proj self_attention.out_proj attn.out",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
    "norm2": "layernorm_after ln_2 ffn_norm LayerNorm_1",
    "mlp.fc1": "intermediate.dense mlp.0 mlp.linear_1 ffn.fc1 MlpBlock_0.Dense_0",
    "mlp.fc2": "output.dense mlp.3 mlp.linear_2 ffn.fc2 MlpBlock_0.Dense_1",
}
MODULES = {theirs: ours for ours, names in OTHERS.items() for theirs in names.split()}
MODULES |= {theirs.replace("/", "."): ours for ours, theirs in GOOGLE.items()}
MODULES |= {theirs.replace("Attention_1", "Attention_0"): ours for theirs, ours in MODULES.items()}
LEAVES = {"kernel": "weight", "scale": "weight", "lambda1": "gamma"}
# DINOv2's training puts its layers into chunks: blocks.CHUNK.N.
LAYER = re.compile(
    r"(?:blocks\.(?:\d+\.)?|encoder\.layer\.|encoder\.layers\.encoder_layer_|layers\.|Transformer\.encoderblock_)(\d+)\."
)
WRAPPED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # what torch puts into names
CLASSIFIERS = ("head.weight", "head.bias", "fc.weight", "fc.bias")  # a ViT's and a ResNet's
# Of two copies of a model in a checkpoint, the one that its authors evaluate is called one of the former, not of the latter.
PREFERRED, COPIES = {"ema", "teacher", "target"}, {"student", "momentum"}
DEEPEST = 20  # how deep a model may lie in a checkpoint


class Arrays(NamedTuple):
    """A model's arrays, found in a checkpoint."""

    state: dict[str, torch.Tensor]  # under timm's names, in timm's layout; those that are not known keep their own names
    names: dict[str, str]  # timm's name -> the checkpoint's
    outside: list[str]  # the checkpoint's names of all other arrays, such as an optimiser's


def to_timm(tree: Mapping, wanted: Collection[str]) -> Arrays:
    """Find a model's arrays in a checkpoint, however they are wrapped, and name them as timm does.

    tree: a state dict, or mappings around one; tensors or NumPy arrays, and what is no array is passed over. wanted: the
    model's names. Raises WeightsError where two arrays have one name in timm, or queries, keys and values differ in shape.
    """
    arrays = {WRAPPED.sub("", name): array for name, array in _flat(tree)}
    # The model lies below the prefix under which most names are the model's.
    hits = Counter(name[:cut] for name in arrays for cut in _cuts(name) if timm_name(name[cut:]) in wanted)
    ranks = {prefix: (count, _rank(prefix)) for prefix, count in hits.items()}
    root, *others = [prefix for prefix, rank in ranks.items() if rank == max(ranks.values())] or [""]
    if others and 2 * hits[root] > len(wanted):
        raise WeightsError(f"there are two models, {root}* and {others[0]}*: keep one of them in the file")
    found = {name: name.removeprefix(root) for name in arrays if name.startswith(root)}
    known = {timm_name(rest) for rest in found.values()}
    for name in [name for name in arrays if name not in found]:  # the classifier may stand beside the backbone
        rests = [name[cut:] for cut in _cuts(root) if name.startswith(root[:cut])]
        found.update((name, rest) for rest in rests if timm_name(rest) in CLASSIFIERS and timm_name(rest) not in known)
    layers = len({match[1] for rest in found.values() if (match := LAYER.match(rest))})

    state, names = {}, {}
    for name, rest in found.items():
        ours = timm_name(rest.replace("encoder.part_layer.", f"encoder.layer.{layers}."))  # TransFG's last layer
        if ours in state and ours in wanted:
            raise WeightsError(f"the arrays {names[ours]} and {name} are both {ours} in timm: remove one of them")
        ours = name if ours in state else ours
        state[ours], names[ours] = _laid_out(arrays[name], ours, rest.endswith("kernel")), name
    for query in [name for name in state if ".attn.query." in name]:
        thirds = [query.replace("query", part) for part in QKV]
        if all(third in state for third in thirds):  # else the three are as good as missing
            if len(shapes := {tuple(state[third].shape) for third in thirds}) > 1:
                raise WeightsError(f"the arrays {', '.join(names[third] for third in thirds)} differ in shape: {shapes}")
            whole = query.replace("query", "qkv")
            names[whole] = names[query].replace("query", "{query,key,value}")
            state[whole] = torch.cat([state.pop(third) for third in thirds])
    return Arrays(state, names, [name for name in arrays if name not in found])


def timm_name(name: str) -> str:
    """What timm calls an array of a ViT; a name that is not known stays as it is."""
    name = name.replace("/", ".")
    layer = LAYER.match(name)
    start, rest = (f"blocks.{layer[1]}.", name[layer.end() :]) if layer else ("", name)
    module, _, leaf = rest.rpartition(".")
    if module in MODULES:
        rest = f"{MODULES[module]}.{LEAVES.get(leaf, leaf)}"
    return start + MODULES.get(rest, rest)


def google_name(name: str) -> str:
    """What Google calls timm's array `name`, which must be one of a plain ViT's; KeyError for another."""
    _, layer, module, leaf = re.fullmatch(r"(blocks\.(\d+)\.)?(.+?)(?:\.(weight|bias))?", name).groups()
    leaf = {"weight": "scale" if "norm" in module else "kernel", "bias": "bias", None: ""}[leaf]
    start = f"Transformer/encoderblock_{layer}/" if layer else ""
    return f"{start}{GOOGLE[module]}/{leaf}".rstrip("/")


def to_google(state: Mapping[str, torch.Tensor], heads: int) -> dict[str, np.ndarray]:
    """A ViT's state dict as arrays in Google's layout."""
    arrays = {}
    for name, tensor in state.items():
        parts = zip(QKV, tensor.chunk(3), strict=True) if "qkv" in name else [("", tensor)]
        for part, array in parts:
            if array.ndim == 4:
                array = array.permute(2, 3, 1, 0)  # OIHW -> HWIO
            elif array.ndim == 2:
                array = array.T
            if part:
                array = array.unflatten(-1, (heads, -1))  # (…, K*d) -> (…, K, d)
            elif name.endswith("attn.proj.weight"):
                array = array.unflatten(0, (heads, -1))  # (K*d, D) -> (K, d, D)
            arrays[google_name(name.replace("qkv", part))] = array.cpu().numpy()
    return arrays


def _laid_out(tensor, name, google):
    """An array of timm's `name` in timm's layout; google: it is a kernel of Google's, (in, out) with the heads apart."""
    if name.endswith(".bias"):
        return tensor.flatten()  # (K, d) -> (K*d,)
    if not google:
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)  # HWIO -> OIHW
    if tensor.ndim == 3:  # (K, d, D) -> (K*d, D), or (D, K, d) -> (D, K*d)
        tensor = tensor.flatten(0, 1) if name.endswith("attn.proj.weight") else tensor.flatten(1)
    return tensor.T if tensor.ndim == 2 else tensor


def _flat(tree, prefix="", seen=None, depth=0):
    """Pairs of a name and a tensor, {"model": {"norm": …}} -> ("model.norm", …).

    A mapping that occurs several times, perhaps within itself, is read once.
    """
    seen = {id(tree)} if seen is None else seen
    if depth > DEEPEST:
        raise WeightsError(f"its mappings lie more than {DEEPEST} deep in each other: save the state dict alone")
    for name, value in tree.items():
        if isinstance(value, Mapping):
            if id(value) not in seen:
                seen.add(id(value))
                yield from _flat(value, f"{prefix}{name}.", seen, depth + 1)
        elif isinstance(value, torch.Tensor) and not value.is_meta:
            if value.layout != torch.strided or value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise WeightsError(f"the array {prefix}{name} is sparse or repeats its numbers: save it as a whole one")
            yield f"{prefix}{name}", value.detach()
        elif isinstance(value, np.ndarray) and (value.dtype.kind in "fiub" or value.dtype.str.endswith("V2")):
            if value.dtype.kind == "V":  # bfloat16 in a file of NumPy's: the upper half of a float32
                value = (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):  # too large a number is infinite then, which is refused
                value = value.astype(np.float32 if value.dtype.kind == "f" else value.dtype.newbyteorder("="))
            yield f"{prefix}{name}", torch.from_numpy(np.asarray(value))  # a single number is no array any more


def _rank(prefix):
    words = set(re.split(r"[._/]", prefix))
    return len(words & PREFERRED) - len(words & COPIES)


def _cuts(name):
    """Where a prefix of a name may end: [0, 6, 15] for "model.backbone.norm"."""
    return [0, *(match.end() for match in islice(re.finditer(r"[./]", name), DEEPEST))]
