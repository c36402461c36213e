import pytest
import torch
from torch import nn

from fgvc_lib.cnn import efficientnet_lite0, resnet18
from fgvc_lib.config import Experiment
from fgvc_lib.datasets import normalisation
from fgvc_lib.errors import ConfigError
from fgvc_lib.saliency import METHODS, attribute, fgsm, input_gradient
from fgvc_lib.vit import VisionTransformer, ViTConfig


def test_the_gradient_is_the_finite_difference():
    torch.manual_seed(0)
    model = VisionTransformer(
        ViTConfig(image_size=32, dim=32, depth=2, heads=4, mlp_dim=64, num_classes=3, fusion=None)
    ).double()
    images, labels = torch.randn(2, 3, 32, 32, dtype=torch.double), torch.tensor([0, 2])
    loss = nn.CrossEntropyLoss(reduction="none")
    expected = torch.zeros(2)
    for channel in range(3):
        step = torch.zeros_like(images)
        step[:, channel, 5, 7] = 1e-5
        expected += ((loss(model(images + step), labels) - loss(model(images - step), labels)) / 2e-5).abs().detach().float()
    maps = input_gradient(model, images, labels)
    assert maps.shape == (2, 32, 32)
    assert torch.allclose(maps[:, 5, 7].float(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("objective", ["loss", "logit"])
def test_batches_do_not_mix_and_nothing_is_left_behind(objective):
    model = resnet18(4).train()
    model.fc.bias.requires_grad_(False)
    images = torch.randn(3, 3, 64, 64)
    together = input_gradient(model, images, objective=objective)
    alone = torch.cat([input_gradient(model, image[None], objective=objective) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    assert model.training and not images.requires_grad
    assert model.conv1.weight.requires_grad and not model.fc.bias.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predicted_label_is_the_default():
    model, images = resnet18(4).eval(), torch.randn(2, 3, 64, 64)
    assert torch.equal(input_gradient(model, images), input_gradient(model, images, model(images).argmax(-1)))


def test_unknown_objective():
    with pytest.raises(ConfigError, match="'score'.*loss, logit"):
        input_gradient(resnet18(2), torch.randn(1, 3, 32, 32), objective="score")


def test_fgsm_moves_every_value_up_the_loss_and_stays_a_picture():
    torch.manual_seed(0)
    model, labels = resnet18(3).eval(), torch.tensor([0, 2])
    scale = normalisation(Experiment(model="resnet18"))
    mean, std = (torch.tensor(values)[:, None, None] for values in scale)
    pixels = torch.rand(2, 3, 32, 32)
    images = (pixels - mean) / std
    still, moved, *_ = fgsm(model, images, labels, (0, 2, 4), scale)
    assert torch.equal(still, images.clamp(-mean / std, (1 - mean) / std))
    moved = moved * std + mean
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    inside = (pixels > 2 / 255) & (pixels < 1 - 2 / 255) & (moved != pixels)
    assert torch.allclose((moved - pixels).abs()[inside], torch.tensor(2 / 255), atol=1e-6) and inside.float().mean() > 0.9
    loss = nn.CrossEntropyLoss()
    assert loss(model((moved - mean) / std), labels) > loss(model(images), labels)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_explains_the_logit_of_the_label(method):
    torch.manual_seed(0)
    model, images, labels = resnet18(3).train(), torch.randn(2, 3, 64, 64), torch.tensor([0, 2])
    state = torch.random.get_rng_state()
    maps = attribute(model, images, labels, method, samples=4)
    assert maps.shape == (2, 64, 64) and (maps >= 0).all() and (maps > 0).any() and not maps.requires_grad
    assert torch.equal(maps, attribute(model, images, labels, method, samples=4))
    assert not torch.allclose(maps, attribute(model, images, labels.flip(0), method, samples=4))
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_lite0"])
def test_grad_cam_weighs_the_maps_that_are_averaged(model):
    """For such a model the weights of Grad-CAM are those of its classifier, as CAM's (Zhou et al. 2016)."""
    if model == "resnet18":
        net = resnet18(3).eval()
        features, weights = nn.Sequential(*[*net.children()][:-2]), net.fc.weight
    else:
        pytest.importorskip("efficientnet_lite_pytorch")
        net = efficientnet_lite0(3, 70, pretrained=False).eval()
        features, weights = net.extract_features, net._fc.weight
    images, labels = torch.randn(2, 3, 70, 70), torch.tensor([0, 2])
    found = features(images)
    assert found.shape[-1] == 3
    cells = torch.einsum("bchw,bc->bhw", found, weights[labels]).relu() / found[0, 0].numel()
    expected = nn.functional.interpolate(cells[:, None], (70, 70), mode="bilinear")[:, 0]
    maps = attribute(net, images, labels, "Grad-CAM")
    assert expected.max() > 0 and torch.allclose(maps, expected, rtol=1e-3, atol=1e-6)


def test_integrated_gradients_of_a_linear_model_are_exact():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), torch.randn(2, 3, 8, 8)
    weight = model[1].weight[1].reshape(3, 8, 8)
    expected = (weight * images).abs().sum(1)
    assert torch.allclose(attribute(model, images, torch.tensor([1, 1]), "integrated gradients", 4), expected, atol=1e-5)


def test_grad_cam_needs_a_convolution():
    model = VisionTransformer(ViTConfig(image_size=32, dim=32, depth=2, heads=4, mlp_dim=64, num_classes=3, fusion=None))
    assert attribute(model, torch.randn(1, 3, 32, 32), torch.tensor([1]), "SmoothGrad", 2).shape == (1, 32, 32)
    with pytest.raises(ConfigError, match="'Grad-CAM' for this model: choose one of gradient, SmoothGrad"):
        attribute(model, torch.randn(1, 3, 32, 32), torch.tensor([1]), "Grad-CAM")
