import numpy as np
import pytest
import torch
from torch import nn

from fgvc_lib.cnn import resnet18
from fgvc_lib.datasets.geometry import box_mask, patch_boxes
from fgvc_lib.datasets.views import IMAGENET
from fgvc_lib.errors import ConfigError
from fgvc_lib.experiments.localisation import energy_in_box, map_hits, pointing_game, selection_hits
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
    mean, deviation = torch.tensor(IMAGENET[0])[:, None, None], torch.tensor(IMAGENET[1])[:, None, None]
    pixels = torch.rand(2, 3, 32, 32)
    images = (pixels - mean) / deviation
    moved = fgsm(model, images, labels, 2, IMAGENET) * deviation + mean
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    inside = (pixels > 2 / 255) & (pixels < 1 - 2 / 255) & (moved != pixels)
    assert torch.allclose((moved - pixels).abs()[inside], torch.tensor(2 / 255), atol=1e-6) and inside.float().mean() > 0.9
    loss = nn.CrossEntropyLoss()
    assert loss(model((moved - mean) / deviation), labels) > loss(model(images), labels)
    assert torch.equal(fgsm(model, images, labels, 0, IMAGENET), images.clamp(-mean / deviation, (1 - mean) / deviation))


def test_maps_and_boxes_by_hand():
    maps = np.zeros((2, 4, 5))
    maps[0, 1, 3] = 3.0  # y 1, x 3
    maps[0, 3, 0] = 1.0
    boxes = np.array([[2.0, 0, 2, 2], [0, 0, 5, 4]])
    assert box_mask(boxes, (4, 5))[0].nonzero()[0].tolist() == [0, 0, 1, 1]
    assert pointing_game(maps, boxes).tolist() == [True, True]
    assert pointing_game(maps, boxes + [0, 2, 0, 0]).tolist() == [False, False]
    assert energy_in_box(maps, boxes).tolist() == [0.75, 0.0]  # an empty map has no energy anywhere


def test_patches_by_hand():
    boxes = patch_boxes(np.array([[0, 5]]), cols=4, patch_size=16, stride=12)
    assert boxes.tolist() == [[[0, 0, 16, 16], [12, 12, 16, 16]]]


def test_selections_by_hand():
    patches = patch_boxes(range(9), cols=3, patch_size=16, stride=16)  # side by side on 48 x 48
    boxes = np.array([[0.0, 0, 32, 32], [0, 0, 32, 32]])
    nowhere = [np.nan, np.nan]
    points = np.array([[[20.0, 4.0], nowhere], [nowhere, nowhere]])  # in patch 1; no part visible
    hits = selection_hits(np.array([[1, 1, 8], [0, 1, 4]]), patches, boxes, points)
    np.testing.assert_allclose(hits["bird"], [2 / 3, 1])
    np.testing.assert_allclose(hits["part"], [1, np.nan])
    np.testing.assert_allclose(hits["bird_chance"], [4 / 9, 4 / 9])
    np.testing.assert_allclose(hits["part_chance"], [2 / 9, np.nan])  # two different patches of nine
    assert selection_hits(np.array([[0, 2, 8], [0, 1, 4]]), patches, boxes, points)["part"][0] == 0


def test_chance_is_what_random_patches_get():
    rng = np.random.default_rng(0)
    patches = patch_boxes(range(36), cols=6, patch_size=16, stride=12)
    boxes = np.tile([10.0, 12, 30, 40], (4_000, 1))
    points = np.tile([[30.0, 33.0], [14.0, 50.0]], (4_000, 1, 1))
    parts = np.stack([rng.permutation(36)[:4] for _ in range(4_000)])
    hits = selection_hits(parts, patches, boxes, points).mean()
    assert hits["bird"] == pytest.approx(hits["bird_chance"], abs=0.02)
    assert hits["part"] == pytest.approx(hits["part_chance"], abs=0.03) and 0.2 < hits["part"] < 0.9


def test_map_hits_by_hand():
    maps = np.zeros((2, 32, 32))
    maps[0, 4, 4], maps[0, 20, 20], maps[0, 31, 31] = 3, 1, 4  # around a part that counts, around another, beside the bird
    boxes = np.array([[0.0, 0, 24, 24], [0, 0, 16, 32]])
    points = np.array([[[4.0, 4.0], [20.0, 20.0]], [[np.nan, np.nan]] * 2])
    counting = points.copy()
    counting[0, 1] = np.nan
    maps[0, 12, 2] = 1  # on the bird, around no part
    hits = map_hits(maps, boxes, points, counting)
    assert hits["peak"].tolist() == [False, True]
    np.testing.assert_allclose(hits["box"], [5 / 9, 0])
    np.testing.assert_allclose(hits["part"], [4 / 5, np.nan])
    np.testing.assert_allclose(hits["counting"], [3 / 4, np.nan])
    np.testing.assert_allclose(hits["part_chance"], [2 * 12 * 12 / 24**2, np.nan])  # of each square, what the box holds
    np.testing.assert_allclose(hits["counting_chance"], [0.5, np.nan])
    np.testing.assert_allclose(hits["box_chance"], [(24 / 32) ** 2, 0.5])
    even = map_hits(np.ones((2, 32, 32)), boxes, points, counting)
    np.testing.assert_allclose(even[["part", "counting"]].loc[0], even[["part_chance", "counting_chance"]].loc[0])


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
