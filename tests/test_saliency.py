import numpy as np
import pytest
import torch
from torch import nn

from fgvc_lib.datasets import IMAGENET
from fgvc_lib.errors import ConfigError
from fgvc_lib.resnet import resnet18
from fgvc_lib.saliency import box_mask, energy_in_box, fgsm, input_gradient, part_distances, patch_boxes, pointing_game
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


def test_parts_by_hand():
    boxes = patch_boxes(np.array([[0, 5]]), cols=4, patch_size=16, stride=12)
    assert boxes.tolist() == [[[0, 0, 16, 16], [12, 12, 16, 16]]]
    points = np.array([[[8.0, 8.0], [20.0, 23.0], [40.0, 20.0], [np.nan, np.nan]]])
    distance, hit = part_distances(boxes, points)
    np.testing.assert_allclose(distance, [[0, 3, 20, np.nan]])
    np.testing.assert_array_equal(hit, [[1, 1, 0, np.nan]])
