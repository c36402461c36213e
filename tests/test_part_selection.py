import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.errors import ConfigError
from fgvc_lib.part_selection import FUSIONS, class_row, fuse, fuse_dense, select
from fgvc_lib.vit import VisionTransformer, ViTConfig

CONFIG = ViTConfig(image_size=48, patch_size=16, stride=12, dim=32, depth=4, heads=4, mlp_dim=64, num_classes=5)


def layers_of(model, images):
    """Queries and keys of layers 1 to L-1, and their full attention maps by the textbook formula."""
    x, layers = model._embed(images), []
    for block in model.blocks[:-1]:
        x, q, k = block(x)
        layers.append((q, k))
    return layers, [(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) for q, k in layers]


@pytest.mark.parametrize("fusion", FUSIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), stride=st.sampled_from([12, 16]), size=st.sampled_from([32, 48, 80]))
def test_rows_give_what_the_full_maps_give(fusion, seed, stride, size):
    torch.manual_seed(seed)
    model = VisionTransformer(CONFIG.replace(image_size=size, stride=stride, fusion=fusion)).double()
    for parameter in model.parameters():  # far from the near-uniform attention of a fresh model
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(2, 3, size, size, dtype=torch.double)
    layers, maps = layers_of(model, images)
    dense = fuse_dense(maps, fusion)
    seen = model.inspect(images)
    assert torch.allclose(seen.scores, dense, rtol=1e-9, atol=0)
    assert torch.equal(seen.parts, dense.argmax(-1))
    single = fuse([class_row(q.float(), k.float()) for q, k in layers], fusion, [(q.float(), k.float()) for q, k in layers])
    best, second = dense.topk(2, dim=-1).values.unbind(-1)
    clear = best > second * (1 + 1e-4)
    assert torch.equal(select(single)[clear], dense.argmax(-1)[clear])


def test_the_formulas_by_hand():
    torch.manual_seed(0)
    one, two, three = (torch.rand(2, 3, 5, 5, dtype=torch.double) for _ in range(3))
    expected = {"add": one + two + three, "mul": one * two * three, "lastlayer": three, "matmul": three @ two @ one}
    for fusion, fused in expected.items():
        assert torch.allclose(fuse_dense([one, two, three], fusion), fused[:, :, 0, 1:])


def test_mul_survives_half_precision_where_the_product_does_not():
    torch.manual_seed(0)
    attentions = [torch.randn(2, 4, 325, 325).softmax(-1) for _ in range(11)]
    naive = fuse_dense([a.half() for a in attentions], "mul")
    assert not naive.any()
    exact = fuse_dense([a.double() for a in attentions], "mul").argmax(-1)
    assert torch.equal(select(fuse([a[:, :, 0].log() for a in attentions], "mul")), exact)
    assert exact.unique().numel() > 1


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bf16_autocast_does_not_collapse(fusion):
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG.replace(image_size=224, depth=12, fusion=fusion)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.inspect(torch.randn(2, 3, 224, 224))
    assert seen.scores.dtype == torch.float32 and seen.scores.isfinite().all() and (seen.scores > 0).all()
    assert seen.parts.unique().numel() > 1


def test_selection_has_no_gradient_and_the_rest_has():
    model = VisionTransformer(CONFIG)
    layers, _ = layers_of(model, torch.randn(1, 3, 48, 48))
    assert not class_row(*layers[0]).requires_grad
    model(torch.randn(2, 3, 48, 48)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unknown_fusion_lists_the_known():
    for call in (lambda: fuse_dense([torch.ones(1, 1, 2, 2)], "max"), lambda: fuse([torch.ones(1, 1, 2)], "max")):
        with pytest.raises(ValueError, match="'max'.*add, matmul, lastlayer, mul"):
            call()
    with pytest.raises(ConfigError, match="'max'.*add, matmul, lastlayer, mul"):
        CONFIG.replace(fusion="max")
