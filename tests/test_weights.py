import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from fgvc_lib.cnn import resnet18
from fgvc_lib.errors import WeightsError
from fgvc_lib.vit import VisionTransformer, ViTConfig
from fgvc_lib.weights import load_pretrained

GOLDEN = Path(__file__).with_name("psm_small.npz")
PLAIN = ViTConfig(image_size=64, stride=16, dim=32, depth=3, heads=4, mlp_dim=64, num_classes=7, fusion=None)


def google_arrays(cfg, seed=0):
    """Random arrays in the layout of Google's checkpoints."""
    rng = np.random.default_rng(seed)
    d, k, m, p = cfg.dim, cfg.heads, cfg.mlp_dim, cfg.patch_size
    shapes = {
        "cls": (1, 1, d), "embedding/kernel": (p, p, 3, d), "embedding/bias": (d,),
        "Transformer/posembed_input/pos_embedding": (1, 1 + cfg.grid[0] ** 2, d),
        "Transformer/encoder_norm/scale": (d,), "Transformer/encoder_norm/bias": (d,),
        "head/kernel": (d, cfg.num_classes), "head/bias": (cfg.num_classes,),
        "pre_logits/kernel": (d, d), "pre_logits/bias": (d,),
    }  # fmt: skip
    for n in range(cfg.depth):
        block = f"Transformer/encoderblock_{n}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}{norm}/scale": (d,), f"{block}{norm}/bias": (d,)}
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}{part}/kernel": (d, k, d // k), f"{attention}{part}/bias": (k, d // k)}
        shapes |= {f"{attention}out/kernel": (k, d // k, d), f"{attention}out/bias": (d,)}
        shapes |= {f"{block}MlpBlock_3/Dense_0/kernel": (d, m), f"{block}MlpBlock_3/Dense_0/bias": (m,)}
        shapes |= {f"{block}MlpBlock_3/Dense_1/kernel": (m, d), f"{block}MlpBlock_3/Dense_1/bias": (d,)}
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def timm_vit(cfg):
    return timm.models.VisionTransformer(
        img_size=cfg.image_size, patch_size=cfg.patch_size, embed_dim=cfg.dim, depth=cfg.depth, num_heads=cfg.heads,
        mlp_ratio=cfg.mlp_dim / cfg.dim, num_classes=cfg.num_classes,
    ).eval()  # fmt: skip


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "vit.npz", **google_arrays(PLAIN))
    return tmp_path / "vit.npz"


def test_npz_gives_the_logits_that_timm_gives(npz):
    ours, theirs = VisionTransformer(PLAIN).eval(), timm_vit(PLAIN)
    load_pretrained(ours, npz)
    theirs.load_pretrained(str(npz))
    # timm takes the classifier for ImageNet's sizes only
    head = google_arrays(PLAIN)
    theirs.head.weight.data, theirs.head.bias.data = torch.tensor(head["head/kernel"].T), torch.tensor(head["head/bias"])
    images = torch.randn(4, 3, 64, 64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize("fusion", [None, "mul"])
def test_timm_state_dict_loads_strictly(fusion):
    theirs, ours = timm_vit(PLAIN), VisionTransformer(PLAIN.replace(fusion=fusion)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    report = load_pretrained(VisionTransformer(PLAIN), theirs.state_dict())
    assert not report.fresh and not report.resized
    images = torch.randn(2, 3, 64, 64)
    if fusion is None:
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize("fusion", ["add", "matmul", "lastlayer", "mul"])
def test_golden(fusion, tmp_path):
    golden = np.load(GOLDEN, allow_pickle=False)
    arrays = {name.removeprefix("weights/"): golden[name] for name in golden if name.startswith(("weights/", "head/"))}
    np.savez(tmp_path / "golden.npz", **arrays)
    names = ("dim", "heads", "depth", "mlp_dim", "image_size", "patch_size", "stride", "num_classes")
    model = VisionTransformer(ViTConfig(**{name: int(golden[f"config/{name}"]) for name in names}, fusion=fusion)).eval()
    report = load_pretrained(model, tmp_path / "golden.npz")
    assert report.resized == ["pos_embed"] and not report.fresh
    np.testing.assert_allclose(model.pos_embed.detach().numpy(), golden["out/pos_embed"], atol=1e-5)
    seen = model.inspect(torch.from_numpy(golden["in/images"]))
    np.testing.assert_allclose(seen.logits.numpy(), golden[f"out/{fusion}/logits"], atol=1e-5)
    np.testing.assert_allclose(seen.scores.numpy(), golden[f"out/{fusion}/scores"], rtol=1e-4)
    np.testing.assert_array_equal(seen.parts.numpy(), golden[f"out/{fusion}/parts"])


def test_safetensors_round_trip_and_report(tmp_path):
    source = VisionTransformer(PLAIN)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "vit.safetensors")
    target = VisionTransformer(PLAIN.replace(num_classes=3, stride=12, fusion="mul"))
    report = load_pretrained(target, tmp_path / "vit.safetensors", init_last_block=True)
    assert report.resized == ["pos_embed"]
    assert {"head.weight", "head.bias", "blocks.2.attn.qkv.weight"} <= set(report.fresh)
    assert torch.equal(target.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert not torch.equal(target.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)
    assert "resized: pos_embed" in str(report)


def test_resnet_takes_a_torchvision_checkpoint(tmp_path):
    source = resnet18(1000)
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    target = resnet18(5)
    assert load_pretrained(target, tmp_path / "resnet.pth").fresh == ["fc.weight", "fc.bias"]
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    "name",
    [
        "embedding/kernel",
        "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/out/bias",
        "Transformer/encoder_norm/scale",
    ],
)
def test_a_missing_or_misshapen_array_is_named(tmp_path, name):
    arrays = google_arrays(PLAIN)
    before = VisionTransformer(PLAIN)
    state = {key: value.clone() for key, value in before.state_dict().items()}
    np.savez(tmp_path / "missing.npz", **{key: value for key, value in arrays.items() if key != name})
    with pytest.raises(WeightsError, match=name):
        load_pretrained(before, tmp_path / "missing.npz")
    np.savez(tmp_path / "shape.npz", **(arrays | {name: np.zeros((*arrays[name].shape[:-1], 9), np.float32)}))
    with pytest.raises(WeightsError, match=f"{name}.*9"):
        load_pretrained(before, tmp_path / "shape.npz")
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())


def test_a_missing_query_is_named(tmp_path):
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
    np.savez(tmp_path / "missing.npz", **{key: value for key, value in google_arrays(PLAIN).items() if key != name})
    with pytest.raises(WeightsError, match="encoderblock_0/MultiHeadDotProductAttention_1"):
        load_pretrained(VisionTransformer(PLAIN), tmp_path / "missing.npz")


def test_a_file_that_is_not_the_one_of_its_card(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(VisionTransformer(PLAIN).state_dict(), path)
    path.with_suffix(".md").write_text(f"SHA-256 | {hashlib.sha256(path.read_bytes()).hexdigest()}")
    load_pretrained(VisionTransformer(PLAIN), path)
    path.with_suffix(".md").write_text(f"SHA-256 | {64 * '0'}")
    with pytest.raises(WeightsError, match="w.safetensors does not match the SHA-256 in w.md"):
        load_pretrained(VisionTransformer(PLAIN), path)


def test_a_resnet_checkpoint_without_its_counters():
    state = {name: tensor for name, tensor in resnet18(1000).state_dict().items() if "num_batches_tracked" not in name}
    report = load_pretrained(resnet18(7), state)
    assert len(report.loaded) == 100 and all("num_batches" in name or name.startswith("fc") for name in report.fresh)


@pytest.mark.parametrize("name", ["page.pth", "empty.pth", "empty.npz", "tensor.pth"])
def test_files_that_are_something_else(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"<!doctype html>" if name.startswith("page") else b"")
    if name == "tensor.pth":
        torch.save(torch.ones(2), path)
    with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
        load_pretrained(resnet18(7), path)


def test_unreadable_files(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "weights.bin").write_bytes(b"")
    np.savez(tmp_path / "pickle.npz", cls=np.array([{}], dtype=object))
    for name, words in (
        ("broken.npz", "fetch it again"),
        ("broken.safetensors", "fetch it again"),
        ("weights.bin", ".npz, .safe"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_pretrained(VisionTransformer(PLAIN), tmp_path / name)
    with pytest.raises(WeightsError, match="pickle"):
        load_pretrained(VisionTransformer(PLAIN), tmp_path / "pickle.npz")
    with pytest.raises(WeightsError, match="missing.*make data"):
        load_pretrained(VisionTransformer(PLAIN), tmp_path / "nowhere.npz")


def test_more_layers_than_the_model_has_are_not_dropped(tmp_path):
    deep = google_arrays(PLAIN.replace(depth=5))
    np.savez(tmp_path / "deep.npz", **deep)
    before = VisionTransformer(PLAIN)
    state = {name: value.clone() for name, value in before.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"deep.npz holds Transformer/encoderblock_3/.* and 23 more arrays, which .* no place"
    ):
        load_pretrained(before, tmp_path / "deep.npz")
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())
    with pytest.raises(WeightsError, match=r"the state dict holds blocks.3.norm1.weight and 23 more"):
        load_pretrained(before, VisionTransformer(PLAIN.replace(depth=5)).state_dict())


@pytest.mark.parametrize("name", ["blocks.0.ls1.gamma", "register_tokens", "reg_token", "fc_norm.weight"])
def test_what_the_model_has_no_place_for_is_named(name):
    state = VisionTransformer(PLAIN).state_dict() | {name: torch.rand(32)}
    with pytest.raises(WeightsError, match=f"holds {name}, which this model has no place for"):
        load_pretrained(VisionTransformer(PLAIN), state)


def test_an_array_of_google_s_that_nobody_knows_is_named(tmp_path):
    np.savez(tmp_path / "odd.npz", **google_arrays(PLAIN), **{"conv_root/kernel": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match="odd.npz holds conv_root/kernel, which"):
        load_pretrained(VisionTransformer(PLAIN), tmp_path / "odd.npz")


def test_what_does_no_harm_is_passed_over():
    extra = {name: torch.rand(2) for name in ("mask_token", "head_dist.weight", "pre_logits.fc.bias", "fc.weight")}
    assert not load_pretrained(VisionTransformer(PLAIN), VisionTransformer(PLAIN).state_dict() | extra).fresh
