import pytest
import torch

from fgvc_lib.errors import ConfigError
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.vit import PRESETS, VisionTransformer, ViTConfig

SMALL = ViTConfig(image_size=48, patch_size=16, stride=12, dim=32, depth=3, heads=4, mlp_dim=64, num_classes=5)


@pytest.mark.parametrize("fusion", [None, "mul", "matmul"])
def test_activations_that_are_computed_again_give_the_same_gradients(fusion):
    torch.manual_seed(0)
    model = VisionTransformer(SMALL.replace(fusion=fusion, dropout=0.3))
    images, gradients, kept = torch.randn(2, 3, 48, 48), {}, {}
    for again in (False, True):
        model.set_grad_checkpointing(again)
        model.zero_grad()
        torch.manual_seed(1)
        held = kept[again] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one, held=held: held.append(one.numel()) or one, lambda one: one
        ):
            loss = model(images).square().sum()
        loss.backward()
        gradients[again] = [parameter.grad.clone() for parameter in model.parameters()]
    assert all(map(torch.equal, gradients[False], gradients[True]))
    assert sum(kept[True]) < sum(kept[False]) / 2


@pytest.mark.parametrize(
    ("size", "patch", "stride", "side"), [(224, 16, 16, 14), (224, 16, 12, 18), (448, 16, 12, 37), (96, 16, 12, 7)]
)
def test_grid(size, patch, stride, side):
    cfg = SMALL.replace(image_size=size, patch_size=patch, stride=stride)
    assert cfg.grid == (side, side)
    assert VisionTransformer(cfg).pos_embed.shape == (1, 1 + side * side, 32)


@pytest.mark.parametrize("head", ["cls", "flatten"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_shapes(fusion, head):
    model = VisionTransformer(SMALL.replace(fusion=fusion, head=head)).eval()
    images = torch.randn(2, 3, 48, 48)
    seen = model.inspect(images)
    assert seen.logits.shape == (2, 5) and seen.parts.shape == (2, 4) and seen.scores.shape == (2, 4, 9)
    assert seen.grid == (3, 3) and seen.cls_attention.shape == (2, 2, 4, 9)
    assert torch.equal(model(images), seen.logits)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 5, 32) and torch.equal(model.forward_head(tokens), seen.logits)
    assert torch.equal(model.select_parts(model.forward_trunk(images)), seen.parts)
    assert ((seen.parts >= 0) & (seen.parts < 9)).all()


def test_only_the_selected_patches_reach_the_last_layer():
    torch.manual_seed(0)
    model = VisionTransformer(SMALL).eval()
    lengths = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    model(torch.randn(1, 3, 48, 48))
    assert lengths == [1 + 4]


def test_plain_model_inspects_without_parts_and_takes_another_fusion():
    model = VisionTransformer(SMALL.replace(fusion=None)).eval()
    images = torch.randn(2, 3, 48, 48)
    seen = model.inspect(images)
    assert seen.parts is None and seen.scores is None and torch.allclose(seen.logits, model(images))
    assert model.inspect(images, "add").parts.shape == (2, 4)


def test_attention_rows_are_those_of_the_softmax():
    model = VisionTransformer(SMALL).eval()
    images = torch.randn(1, 3, 48, 48)
    _, q, k = model.blocks[0](model.embed(images))
    rows = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)[:, :, 0, 1:]
    assert torch.allclose(model.inspect(images).cls_attention[0], rows, atol=1e-6)


def test_one_trunk_serves_every_rule(monkeypatch):
    model, images, calls = VisionTransformer(SMALL.replace(fusion=None)).eval(), torch.randn(2, 3, 48, 48), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    trunk = model.forward_trunk(images, keep_all=True)
    for rule in FUSIONS:
        shared = model.inspect(images, rule, trunk=trunk)
        assert len(calls) == 1
        alone = model.inspect(images, rule)
        calls.pop()
        assert torch.equal(shared.logits, alone.logits) and torch.equal(shared.scores, alone.scores)


def test_the_product_over_many_layers_stays_finite_and_positive():
    torch.manual_seed(0)
    model = VisionTransformer(SMALL.replace(image_size=224, depth=60, dim=16, heads=2, mlp_dim=16)).eval()
    seen = model.inspect(torch.randn(1, 3, 224, 224))
    assert (model.part_scores(model.forward_trunk(torch.randn(1, 3, 224, 224))).exp() == 0).all()  # what it would be
    shares = seen.scores / seen.scores.sum(-1, keepdim=True)
    assert shares.isfinite().all() and torch.equal(seen.scores.argmax(-1), seen.parts)


def test_dropout_only_acts_in_training():
    model = VisionTransformer(SMALL.replace(dropout=0.5, fusion=None))
    images = torch.randn(1, 3, 48, 48)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": 17}, "stride 17.*patch size 16"),
        ({"stride": 0}, "stride 0"),
        ({"image_size": 8}, "image of 8 pixels is smaller than a patch of 16"),
        ({"head": "mean"}, "'mean'.*cls, flatten"),
        ({"head": "flatten", "fusion": None}, "flatten.*fusion"),
        ({"heads": 5}, "dim 32 is not a multiple of heads 5"),
        ({"depth": 1}, "depth 1"),
    ],
)
def test_bad_config(changes, words):
    with pytest.raises(ConfigError, match=words):
        SMALL.replace(**changes)


def test_wrong_image_size_is_named():
    with pytest.raises(ConfigError, match=r"\(B, 3, 48, 48\), not \(1, 3, 64, 64\)"):
        VisionTransformer(SMALL)(torch.randn(1, 3, 64, 64))


def test_presets_have_the_published_sizes():
    counts = {"vit_b16": 85.8e6, "vit_l16": 303.3e6, "vit_s16": 21.7e6, "vit_ti16": 5.5e6}
    for name, count in counts.items():
        with torch.device("meta"):
            model = VisionTransformer(PRESETS[name].replace(fusion=None, num_classes=1))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.01)
    with torch.device("meta"):
        micro = VisionTransformer(PRESETS["vit_micro16"])
    assert 1.5e6 < sum(p.numel() for p in micro.parameters()) < 3e6
