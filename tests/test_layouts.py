"""Checkpoints as other people save them: each kind gives the logits it was saved with, or one sentence."""

import argparse
import gzip
import pathlib
import pickle
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from fgvc_lib.cnn import resnet18
from fgvc_lib.errors import WeightsError
from fgvc_lib.vit import PRESETS, VisionTransformer, ViTConfig
from fgvc_lib.weights import load_pretrained
from fgvc_lib.weights.layouts import to_google

SMALL = ViTConfig(image_size=64, stride=16, dim=32, depth=3, heads=4, mlp_dim=64, num_classes=5, fusion=None)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def random_vit(cfg=SMALL):
    """A ViT none of whose arrays is like another."""
    model = VisionTransformer(cfg).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def renamed(state, rules, split=""):
    """timm's names -> another library's, by patterns; split: its name of queries, keys and values apart, with {}."""
    renamed = {}
    for name, tensor in state.items():
        parts = {name: tensor}
        if split and ".qkv." in name:
            thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            parts = {name.replace("attn.qkv", split.format(part)): third for part, third in thirds}
        for one, value in parts.items():
            for old, new in rules:
                one = re.sub(old, new, one)
            renamed[one] = value
    return renamed


def huggingface(state):
    rules = [
        (r"^cls_token", "embeddings.cls_token"), (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^dist_token", "embeddings.distillation_token"), (r"^head_dist", "/distillation_classifier"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^norm\.", "layernorm."),
        (r"^blocks", "encoder.layer"), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
        (r"attn\.proj", "attention.output.dense"), (r"mlp\.fc1", "intermediate.dense"), (r"mlp\.fc2", "output.dense"),
        (r"^(?!head|/)", "vit."), ("^head", "classifier"), ("^/", ""),
    ]  # fmt: skip
    return renamed(state, rules, "attention.attention.{}") | {"vit.pooler.dense.weight": torch.rand(32, 32)}


def dinov2(state):
    rules = [
        (r"^cls_token", "embeddings.cls_token"), (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^norm\.", "layernorm."),
        (r"^blocks", "encoder.layer"), (r"attn\.proj", "attention.output.dense"),
        (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"),
    ]  # fmt: skip
    return renamed(state, rules, "attention.attention.{}") | {"embeddings.mask_token": torch.rand(1, 32)}


def huggingface_5(state):
    rules = [
        (r"^blocks", "layers"), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
        (r"attn\.proj", "attention.o_proj"), (r"attention\.(q|k|v)\w*\.", r"attention.\1_proj."),
        (r"^cls_token", "embeddings.cls_token"),
        (r"^pos_embed", "embeddings.position_embeddings"), (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
    ]  # fmt: skip
    return {f"vit.{name}": value for name, value in renamed(state, rules, "attention.{}").items()}


def transfg(state):
    rules = [
        (r"^cls_token", "transformer.embeddings.cls_token"), (r"^pos_embed", "transformer.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "transformer.embeddings.patch_embeddings"), (r"^norm\.", "transformer.encoder.part_norm."),
        (r"^blocks\.2\.", "transformer.encoder.part_layer."), (r"^blocks", "transformer.encoder.layer"),
        ("norm1", "attention_norm"), ("norm2", "ffn_norm"), (r"attn\.proj", "attn.out"), (r"mlp\.", "ffn."),
        ("^head", "part_head"),
    ]  # fmt: skip
    return {"model": renamed(state, rules, "attn.{}")}


def torchvision_s(state):
    rules = [
        (r"^cls_token", "class_token"), (r"^pos_embed", "encoder.pos_embedding"), (r"^patch_embed\.proj", "conv_proj"),
        (r"^norm\.", "encoder.ln."), (r"^blocks\.", "encoder.layers.encoder_layer_"), ("norm1", "ln_1"), ("norm2", "ln_2"),
        (r"attn\.qkv\.", "self_attention.in_proj_"), (r"attn\.proj", "self_attention.out_proj"), (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.3"), (r"^head\.", "heads.head."),
    ]  # fmt: skip
    return renamed(state, rules)


def google(state):
    return to_google(state, SMALL.heads)


def big_vision(state):
    rules = [
        ("Attention_1", "Attention_0"), ("LayerNorm_2", "LayerNorm_1"), ("MlpBlock_3", "MlpBlock_0"),
        ("Transformer/posembed_input/", ""), ("^", "params/"),
    ]  # fmt: skip
    return renamed(google(state), rules)


def dinov2_s_own(state):
    """As DINOv2's training saves it: in chunks of layers, two models, an optimiser."""
    names = {name: re.sub(r"^blocks\.(\d)", r"blocks.0.\1", name) for name in state if not name.startswith("head")}
    other = {new: torch.rand_like(state[old]) for old, new in names.items()}
    teacher = {f"backbone.{new}": state[old] for old, new in names.items()}
    return {
        "iteration": 3,
        "student": {f"module.backbone.{name}": value for name, value in other.items()},
        "teacher": teacher | {"head.weight": state["head.weight"], "head.bias": state["head.bias"]},
        "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"lr": 1e-3}]},
    }


LAYOUTS = {
    "timm": dict,
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "state_dict, model., backbone.": lambda state: {
        "state_dict": {f"model.{re.sub('^(?!head)', 'backbone.', name)}": value for name, value in state.items()},
        "epoch": 3, "hyper_parameters": {"lr": 0.1},
    },
    "base_model.model.vit": lambda state: {f"base_model.model.{name}": value for name, value in huggingface(state).items()},
    "model and model_ema": lambda state: {
        "model": {name: torch.rand_like(value) for name, value in state.items()}, "model_ema": dict(state), "epoch": 3,
    },
    "net": lambda state: {"net": OrderedDict(state), "acc": 91.2},
    "encoder": lambda state: {"encoder": {f"module.{name}": value for name, value in state.items()}},
    "a wrapper that nobody knows": lambda state: {"ours": {"weights": dict(state)}},
    "compiled": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "sharded": lambda state: renamed(state, [(r"(blocks\.\d\.)", r"\1_fsdp_wrapped_module.")]),
    "numpy": lambda state: {name: value.numpy() for name, value in state.items()},
    "Hugging Face": huggingface, "Hugging Face 5": huggingface_5, "Dinov2": dinov2, "DINOv2's own": dinov2_s_own,
    "torchvision": torchvision_s, "TransFG": transfg, "Google": google, "big_vision": big_vision,
    "opt/target": lambda state: {f"opt/target/{name}": value for name, value in google(state).items()},
    "DeiT III": lambda state: {re.sub(r"ls(\d)\.gamma", r"gamma_\1", name): value for name, value in state.items()},
}  # fmt: skip


def loaded(checkpoint, cfg=SMALL):
    model = VisionTransformer(cfg).eval()
    return model, load_pretrained(model, checkpoint)


def same_logits(one, other, images=IMAGES):
    with torch.no_grad():
        torch.testing.assert_close(one(images), other(images), atol=1e-5, rtol=0)


def refused(checkpoint, words, model=None):
    model = model or VisionTransformer(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as error:
        load_pretrained(model, checkpoint)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_in_any_layout_gives_the_same_logits(tmp_path, layout):
    scaled = layout in ("Dinov2", "DINOv2's own", "DeiT III")
    source = random_vit(replace(SMALL, layer_scale=1.0) if scaled else SMALL)
    checkpoint = LAYOUTS[layout](source.state_dict())
    torch.save(checkpoint, tmp_path / "w.pth")
    for given in (checkpoint, tmp_path / "w.pth"):
        model, report = loaded(given, source.cfg)
        assert not report.resized and not report.fresh
        same_logits(model, source)


@pytest.mark.parametrize("file", ["w.npz", "w.bin", "w.safetensors", "old.ckpt", "npz.pth", "safetensors.pt", "bf16.pt"])
def test_a_checkpoint_is_read_by_what_it_is_not_by_its_ending(tmp_path, file):
    source, path = random_vit(), tmp_path / file
    state = source.state_dict()
    if "npz" in file:
        with path.open("wb") as opened:
            np.savez(opened, **google(state))
    elif "safetensors" in file:
        safetensors.torch.save_file(state, path)
    else:
        if "bf16" in file:
            source.bfloat16().float()  # numbers that bfloat16 has
            state = {name: value.bfloat16() for name, value in source.state_dict().items()}
        torch.save(state, path, _use_new_zipfile_serialization="old" not in file)
    model, report = loaded(path)
    assert len(report.loaded) == len(state) and not report.unused
    same_logits(model, source)


def test_a_bfloat16_checkpoint_of_numpy_s(tmp_path):
    source = random_vit().bfloat16().float()
    halves = {
        name: (array.view(np.uint32) >> 16).astype(np.uint16).view("V2")
        for name, array in google(source.state_dict()).items()
    }
    np.savez(tmp_path / "w.npz", **halves)
    same_logits(loaded(tmp_path / "w.npz")[0], source)


def test_a_checkpoint_of_torchvision_gives_torchvision_s_logits():
    theirs = torchvision.models.VisionTransformer(64, 16, 3, 4, 32, 64, num_classes=5).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    same_logits(loaded(theirs.state_dict())[0], theirs)


def timm_vit(**options):
    theirs = timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=5, **options
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    return theirs


def test_a_checkpoint_whose_class_token_has_no_position_gives_timm_s_logits():
    theirs = timm_vit(no_embed_class=True, init_values=1.0)
    assert theirs.pos_embed.shape[1] == 16
    model, report = loaded(theirs.state_dict(), replace(SMALL, layer_scale=1.0))
    same_logits(model, theirs)
    assert not report.fresh


@pytest.mark.parametrize("layout", [dict, huggingface])
def test_a_distillation_token_is_dropped_with_a_word(capsys, layout):
    source = random_vit()
    state = source.state_dict()
    token, positions = torch.rand(1, 1, 32), state["pos_embed"]
    distilled = state | {"pos_embed": torch.cat([positions[:, :1], token, positions[:, 1:]], dim=1), "dist_token": token}
    distilled |= {"head_dist.weight": torch.rand(5, 32), "head_dist.bias": torch.rand(5)}
    model, report = loaded(layout(distilled))
    same_logits(model, source)
    assert "distillation token" in capsys.readouterr().out
    assert sum("dist" in name for name in report.unused) == 3 and "dist" in str(report)


def test_every_array_that_a_checkpoint_holds_beside_the_model_is_accounted_for():
    state = random_vit().state_dict()
    decoder = {"decoder_embed.weight": torch.rand(3), "mask_token": torch.rand(1, 1, 32)}
    checkpoint = {"model": state | decoder, "optimizer": {"state": {n: {"exp_avg": torch.rand(2)} for n in range(40)}}}
    _, report = loaded(checkpoint)
    assert len(report.loaded) + len(report.unused) == len(state) + 2 + 40
    assert "not used: optimizer (40 arrays), model (2 arrays)" in str(report)
    _, report = loaded(state, replace(SMALL, num_classes=3))
    assert report.fresh == report.unused == ["head.weight", "head.bias"]


@pytest.mark.parametrize("count", [129, 18, 15])
def test_a_checkpoint_whose_patches_are_no_square_grid(count):
    refused(
        random_vit().state_dict() | {"pos_embed": torch.rand(1, count, 32)}, rf"\(1, {count}, 32\), which is no square grid"
    )


def test_a_checkpoint_of_other_shape_names_the_model_that_it_fits():
    def state(name, **options):
        return VisionTransformer(PRESETS[name].replace(image_size=64, num_classes=5, fusion=None, **options)).state_dict()

    refused(state("vit_ti16"), "cls_token the shape .*12 layers of 192 .* no LayerScale: choose the model vit_ti16")
    tiny = VisionTransformer(PRESETS["vit_ti16"].replace(image_size=64, fusion=None))
    refused(
        state("vit_ti16", layer_scale=1.0), "blocks.0.ls1.gamma and 23 more arrays, which .* patches of 16, LayerScale", tiny
    )
    refused(state("vit_ti16", depth=14), "blocks.12.* and 23 more arrays, which .* 14 layers", tiny)
    refused(state("vit_ti16", depth=2), "no array blocks.2.norm1.weight.*; its arrays are a ViT's of 2 layers", tiny)
    scaled = VisionTransformer(PRESETS["vit_ti16"].replace(image_size=64, fusion=None, layer_scale=1.0))
    refused(state("vit_ti16"), "no array blocks.0.ls1.gamma.*no LayerScale: choose the model vit_ti16", scaled)
    registers = state("vit_ti16") | {"register_tokens": torch.rand(1, 4, 192)}
    refused(registers, "holds register_tokens, which .*register tokens: take the one without", tiny)


def zoo(name):
    return timm.create_model(name, num_classes=5).state_dict()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: zoo("swin_tiny_patch4_window7_224"), "a Swin Transformer's"),
        (lambda: torchvision.models.swin_t().state_dict(), "a Swin Transformer's"),
        (lambda: zoo("convnext_atto"), "a ConvNeXt's"),
        (lambda: torchvision.models.convnext_tiny().state_dict(), "a ConvNeXt's"),
        (
            lambda: (
                {f"convnext.encoder.stages.{n}.layers.0.dwconv.bias": torch.rand(3) for n in range(4)}
                | {f"convnext.encoder.stages.{n}.layers.0.layernorm.bias": torch.rand(3) for n in range(4)}
            ),
            "a ConvNeXt's",
        ),
        (lambda: resnet18(5).state_dict(), "a ResNet's"),
        (lambda: zoo("efficientnet_b0"), "an EfficientNet's"),
        (lambda: zoo("beit_base_patch16_224"), "a BEiT's"),
        (lambda: {"text_model.embeddings.token_embedding.weight": torch.rand(9, 3)}, "a CLIP text model's"),
        (lambda: {"visual.class_embedding": torch.rand(3), "visual.ln_pre.weight": torch.rand(3)}, "a CLIP image model's"),
        (lambda: {"bert.embeddings.word_embeddings.weight": torch.rand(9, 3)}, "a language model's"),
    ],
)
def test_a_checkpoint_of_another_model_says_which_it_looks_like(make, words):
    refused(make(), f"array cls_token.*; its arrays look like {words}")


def test_a_vit_s_checkpoint_for_a_resnet():
    refused(random_vit().state_dict(), "no array conv1.weight.*; its arrays are a ViT's of 3 layers", resnet18(5))


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": {f"module.backbone.{n}": v for n, v in state.items()}}])
def test_a_resnet_s_checkpoint_is_found_in_its_wrapper(wrap):
    source, model = resnet18(5), resnet18(5)
    report = load_pretrained(model, wrap(source.state_dict()))
    assert not report.fresh and not report.unused
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        (argparse.Namespace(lr=1e-3), "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (pathlib.Path("w"), "pathlib.PosixPath"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_with_pickled_objects_is_refused_with_what_to_do(tmp_path, beside, name, new):
    torch.save({"model": random_vit().state_dict(), "args": beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    words = rf"w.pth holds more than arrays \({name}\).*torch.save\(model.state_dict\(\), 'weights.pth'\)"
    refused(tmp_path / "w.pth", words)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_torchscript_or_a_plain_pickle_is_refused_with_what_to_do(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(tmp_path / "script.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": np.ones(3)}))
    np.savez(tmp_path / "objects.npz", cls=np.array([{}], dtype=object))
    for name in ("script.pt", "plain.pkl", "objects.npz"):
        refused(tmp_path / name, rf"{name} holds more than arrays \(pickled objects\).*save its state dict alone")


def test_numbers_of_numpy_s_beside_the_checkpoint_do_no_harm(tmp_path):
    source = random_vit()
    arrays = {name: value.numpy() for name, value in source.state_dict().items()}
    torch.save({"state_dict": arrays, "accuracy": np.float64(0.9), "classes": np.arange(3)}, tmp_path / "w.pth")
    same_logits(loaded(tmp_path / "w.pth")[0], source)


def damaged(kind, path):
    state = random_vit().state_dict()
    if kind == "zeroes":
        torch.save(state, path)
        content = bytearray(path.read_bytes())
        content[40_000:41_000] = bytes(1000)
        path.write_bytes(content)
    elif kind in ("cut", "cut old"):
        torch.save(state, path, _use_new_zipfile_serialization=kind == "cut")
        path.write_bytes(path.read_bytes()[:30_000])
    else:
        contents = {
            "empty": b"", "page": b"<!DOCTYPE html><html>", "pointer": b"version https://git-lfs.github.com/spec/v1\n",
            "packed": gzip.compress(b"weights"), "index": b'{"weight_map": {}}', "keras": b"\x89HDF\r\n", "other": b"GIF89a",
        }  # fmt: skip
        path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zeroes", "its part .* is damaged"), ("cut", "cut off"), ("cut old", "."), ("empty", "it is empty"),
        ("page", "web page"),
        ("pointer", "git lfs pull"), ("packed", "unpack it first"), ("index", "JSON"), ("keras", "HDF5"),
        ("other", "something else"),
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_no_checkpoint_says_what_it_is(tmp_path, kind, words):
    damaged(kind, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", f"w.pth cannot be read as weights .*{words}.*fetch it again; weights are .npz")


def test_a_folder_is_no_checkpoint(tmp_path):
    refused(tmp_path, "is a folder: name the file of weights in it")


def test_a_quantised_or_broken_array_is_named():
    state = random_vit().state_dict()
    name = "blocks.1.mlp.fc1.weight"
    refused(
        state | {name: state[name].to(torch.int8)},
        f"the array {name} holds torch.int8, no floats: take a checkpoint that is not quantised",
    )
    refused(state | {name: state[name] * torch.nan}, f"the array {name} holds numbers that are not finite")


def test_of_two_models_in_a_checkpoint_none_is_guessed():
    state = random_vit().state_dict()
    both = {prefix: {name: torch.rand_like(value) for name, value in state.items()} for prefix in ("good", "bad")}
    refused(both, r"two models, good\.\* and bad\.\*: keep one of them in the file")
    encoders = {f"module.{kind}_encoder.{name}": value for name, value in state.items() for kind in ("momentum", "base")}
    assert all("momentum" in name for name in loaded({"state_dict": encoders})[1].unused)


def test_two_arrays_of_one_name_are_refused():
    state = random_vit().state_dict()
    refused(
        state | {"layernorm.weight": torch.rand(32)}, "arrays norm.weight and layernorm.weight are both norm.weight in timm"
    )
    apart = huggingface(state)
    name = "vit.encoder.layer.1.attention.attention.key.weight"
    refused(apart | {name: torch.rand(16, 32)}, f"the arrays .*{name}.* differ in shape")
    del apart[name]
    refused(apart, "no array blocks.1.attn.qkv.weight")
