import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.errors import ConfigError
from fgvc_lib.experiments.bench import dense_forward
from fgvc_lib.part_selection import FUSIONS, class_row, fuse, fuse_dense, select
from fgvc_lib.vit import VisionTransformer, ViTConfig

CONFIG = ViTConfig(image_size=48, patch_size=16, stride=12, dim=32, depth=5, heads=4, mlp_dim=64, num_classes=5)
MODELS = {
    "seed": st.integers(0, 2**31), "stride": st.sampled_from([12, 16]), "size": st.sampled_from([32, 48, 80]),
    "layer_scale": st.sampled_from([None, 1.0]),
}  # fmt: skip


def random_model(fusion, seed, stride, size, **options):
    """A model in float64 whose attention is far from the near-uniform one of a fresh model, and two images."""
    torch.manual_seed(seed)
    model = VisionTransformer(CONFIG.replace(image_size=size, stride=stride, fusion=fusion, **options)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model, torch.randn(2, 3, size, size, dtype=torch.double)


def layers_of(model, images):
    """Queries and keys of layers 1 to L-1, their full attention maps by the textbook formula, the last raw scores."""
    x, layers = model.embed(images), []
    for block in model.blocks[:-1]:
        x, q, k = block(x)
        layers.append((q, k))
    raw = [q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 for q, k in layers]
    return layers, [scores.softmax(-1) for scores in raw], raw[-1]


def error(scores, exact):
    """The largest relative error; of `lowrank`, whose scores may pass through zero, relative to each head's largest."""
    return ((scores - exact).abs() / exact.abs().clamp(min=1e-6 * exact.abs().amax(-1, keepdim=True))).max()


@pytest.mark.parametrize("fusion", FUSIONS)
@settings(max_examples=15, deadline=None)
@given(**MODELS, top_k=st.integers(1, 3))
@torch.no_grad()
def test_rows_give_what_the_full_maps_give(fusion, seed, stride, size, layer_scale, top_k):
    model, images = random_model(fusion, seed, stride, size, layer_scale=layer_scale, top_k=top_k)
    _, maps, raw = layers_of(model, images)
    dense = fuse_dense(maps, fusion, raw=raw)
    seen = model.inspect(images)
    assert error(seen.scores, dense) < 1e-9
    assert torch.equal(seen.parts, select(dense, top_k))
    single = model.float().inspect(images.float())
    assert error(single.scores, dense) < 1e-4
    best, second = dense.topk(2, dim=-1).values.unbind(-1)
    clear = best > second * (1 + 1e-4)
    assert torch.equal(single.parts.unflatten(1, (-1, top_k))[clear][:, 0], dense.argmax(-1)[clear])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 4))
def test_lowrank_of_any_rank_is_the_best_approximation(seed, rank):
    torch.manual_seed(seed)
    attentions = [(3 * torch.randn(2, 3, 10, 10, dtype=torch.double)).softmax(-1) for _ in range(4)]
    rows = [a[:, :, 0].log() for a in attentions]
    exact = fuse_dense(attentions, "lowrank", rank)
    assert torch.allclose(fuse(rows, "lowrank", rank=rank), exact, atol=1e-9)
    if rank == 4:  # all layers kept: the plain mean
        assert torch.allclose(exact, fuse_dense(attentions, "add") / 4)


@pytest.mark.parametrize("head", ["cls", "flatten"])
@pytest.mark.parametrize("fusion", FUSIONS)
@settings(max_examples=5, deadline=None)
@given(**MODELS)
def test_logits_and_gradients_are_those_of_the_dense_model(fusion, head, seed, stride, size, layer_scale):
    model, images = random_model(fusion, seed, stride, size, head=head, layer_scale=layer_scale, top_k=2)
    weights = torch.randn(2, 5, dtype=torch.double)
    logits, expected = model(images), dense_forward(model, images)
    assert torch.allclose(logits, expected, rtol=1e-9)
    parameters = list(model.parameters())
    ours = torch.autograd.grad((logits * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_the_formulas_by_hand():
    torch.manual_seed(0)
    one, two, three, raw = (torch.rand(2, 3, 5, 5, dtype=torch.double) for _ in range(4))
    half = [(a + torch.eye(5)) / 2 for a in (one, two, three)]
    column = raw[:, :, 1:, 0].exp() / raw[:, :, :, :1].exp().sum(2)
    expected = {
        "add": one + two + three, "mul": one * two * three, "lastlayer": three, "matmul": three @ two @ one,
        "rollout": half[2] @ half[1] @ half[0],
    }  # fmt: skip
    for fusion, fused in expected.items():
        assert torch.allclose(fuse_dense([one, two, three], fusion), fused[:, :, 0, 1:])
    assert torch.allclose(fuse_dense([one, two, three], "maws", raw=raw), three[:, :, 0, 1:] * column)
    same = fuse_dense([one, one], "lowrank")  # rank one as it is
    assert torch.allclose(same, one[:, :, 0, 1:])


def test_a_heads_patches_come_best_first():
    scores = torch.tensor([[[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]]])
    assert select(scores).tolist() == [[1, 0]]
    assert select(scores, 2).tolist() == [[1, 2, 0, 1]]


@torch.no_grad()
def test_mul_survives_half_precision_where_the_product_does_not():
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG.replace(image_size=224, depth=12))
    images = torch.randn(2, 3, 224, 224)
    _, maps, _ = layers_of(model, images)
    naive = fuse_dense([a.half() for a in maps], "mul")
    assert not naive.any() and not select(naive).any()  # all zero: every head picks patch 0
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.inspect(images)
    exact = fuse_dense([a.double() for a in maps], "mul")
    assert seen.parts.unique().numel() > 4 and seen.scores.isfinite().all() and (seen.scores > 0).all()
    assert error(seen.scores.double(), exact) < 0.3  # what bf16 does to queries and keys, eleven layers of it
    assert torch.equal(model.inspect(images).parts, exact.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_under_autocast_rows_are_float32(fusion, dtype):
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG.replace(image_size=96, dropout=0.1, fusion=fusion))
    images = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", dtype):
        model(images).float().sum().backward()
        seen = model.eval().inspect(images)
    assert seen.scores.dtype == seen.cls_attention.dtype == torch.float32 and seen.scores.isfinite().all()
    assert seen.parts.unique().numel() > 1
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_compiles_into_one_graph(fusion):
    torch.manual_seed(0)
    model, images = VisionTransformer(CONFIG.replace(fusion=fusion)), torch.randn(2, 3, 48, 48)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(images), model(images), atol=1e-6)
    compiled(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_selection_has_no_gradient_and_the_rest_has():
    model = VisionTransformer(CONFIG)
    layers, _, _ = layers_of(model, torch.randn(1, 3, 48, 48))
    assert not class_row(*layers[0]).requires_grad
    model(torch.randn(2, 3, 48, 48)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unknown_fusion_lists_the_known():
    for call in (lambda: fuse_dense([torch.ones(1, 1, 2, 2)], "best"), lambda: fuse([torch.ones(1, 1, 2)], "best")):
        with pytest.raises(ValueError, match="'best'.*add, matmul, lastlayer, mul"):
            call()
    with pytest.raises(ConfigError, match="'best'.*add, matmul, lastlayer, mul"):
        CONFIG.replace(fusion="best")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top_k": 0}, "top_k 0 must lie between 1 and the number of patches, 9"),
        ({"top_k": 10}, "top_k 10 must lie between 1 and the number of patches, 9"),
        ({"rank": 0, "fusion": "lowrank"}, "rank 0 must lie between 1 and the number of fused layers, 4"),
        ({"rank": 5, "fusion": "lowrank"}, "rank 5 must lie between 1 and the number of fused layers, 4"),
    ],
)
def test_rank_and_top_k_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        CONFIG.replace(**changes)


def test_what_cannot_be_fused_or_selected_is_said():
    rows = [torch.zeros(1, 2, 10)] * 3
    for fusion in ("matmul", "rollout", "maws"):
        with pytest.raises(ValueError, match=f"'{fusion}' needs the queries and keys of [13] layers, got 0"):
            fuse(rows, fusion)
    for rank in (0, -1, 4):
        with pytest.raises(ValueError, match="rank .* between 1 and the number of fused layers, 3"):
            fuse(rows, "lowrank", rank=rank)
        with pytest.raises(ValueError, match="between 1 and the number of fused layers, 3"):
            fuse_dense([torch.zeros(1, 2, 10, 10)] * 3, "lowrank", rank)
    for top_k in (0, 10):
        with pytest.raises(ValueError, match="between 1 and the number of patches, 9"):
            select(torch.zeros(1, 2, 9), top_k)
