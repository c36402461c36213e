"""The arithmetic of docs/scaling.md: the numbers in its table, and its formulas held against what torch counts."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fgvc_lib.vit import PRESETS, VisionTransformer

TEXT = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
SIZES = (224, 448)


def config(name, size):
    """The preset with overlapping patches at a size, as the ablation has it."""
    return PRESETS[name].replace(image_size=size, stride=PRESETS[name].patch_size * 3 // 4, fusion=None)


def tokens(cfg):
    return 1 + cfg.grid[0] * cfg.grid[1]


def parameters(cfg):
    layer = 12 * cfg.dim**2 + 13 * cfg.dim + (2 * cfg.dim if cfg.layer_scale else 0)
    ends = (3 * cfg.patch_size**2 + 1) * cfg.dim + 3 * cfg.dim + (cfg.dim + 1) * cfg.num_classes
    return cfg.depth * layer + tokens(cfg) * cfg.dim + ends


def forward_flops(cfg):
    layers = cfg.depth * (24 * tokens(cfg) * cfg.dim**2 + 4 * tokens(cfg) ** 2 * cfg.dim)
    return layers + 6 * (tokens(cfg) - 1) * cfg.patch_size**2 * cfg.dim + 2 * cfg.dim * cfg.num_classes


def activations(cfg, bf16=False):
    """Bytes an image."""
    return (36 if bf16 else 64) * tokens(cfg) * cfg.dim * cfg.depth


def line(name, size):
    cfg = config(name, size)
    cells = [
        name, size, f"{tokens(cfg):,}", f"{parameters(cfg) / 1e6:.1f}", f"{12 * parameters(cfg) / 1e9:.2f}",
        *(f"{activations(cfg, bf16) / 1e6:,.0f}" for bf16 in (False, True)), f"{3 * forward_flops(cfg) / 1e9:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "vit_micro16"])
def test_the_table(name, size):
    assert line(name, size) in TEXT.splitlines()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_and_flops_are_those_of_the_model(name):
    cfg = config(name, 224)
    with torch.device("meta"):
        model, images = VisionTransformer(cfg), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counted:
        model(images)
    assert parameters(cfg) == sum(parameter.numel() for parameter in model.parameters())
    assert forward_flops(cfg) == counted.get_total_flops()


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_what_autograd_keeps(bf16):
    cfg = config("vit_ti16", 224)
    model, kept = VisionTransformer(cfg), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", enabled=bf16):
        model(torch.randn(8, 3, 224, 224)).sum()
    copies = 2 * parameters(cfg) if bf16 else 0  # of the weights
    assert sum(size for size, _ in kept.values()) - copies == pytest.approx(8 * activations(cfg, bf16), rel=0.03)
