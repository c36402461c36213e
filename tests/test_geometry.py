import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib.config import Experiment
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.geometry import box_mask, box_views, discriminative_points, part_points, patch_boxes, to_view
from fgvc_lib.datasets.views import view


def test_points_follow_the_test_transform(cub):
    experiment = Experiment(image_size=32, resize_size=48, model="vit_micro16")
    picture = np.zeros((60, 120, 3), np.uint8)
    picture[20:30, 80:100] = 255  # a rectangle around (90, 25)
    seen = view(Image.fromarray(picture), experiment)
    rows, columns = torch.nonzero(seen[0] > 0, as_tuple=True)
    x, y = to_view([90, 25], (120, 60), experiment)
    assert abs(columns.float().mean() + 0.5 - x) < 0.6 and abs(rows.float().mean() + 0.5 - y) < 0.6


def test_annotations_in_the_view(birds):
    experiment = Experiment(image_size=64, resize_size=72)
    test = CUB200(birds, "test")
    boxes, points = box_views(test, experiment), part_points(test, experiment)
    assert boxes.shape == (len(test), 4) and (boxes[:, :2] + boxes[:, 2:] <= 64).all() and (boxes >= 0).all()
    inside = (points >= boxes[:, None, :2] - 1) & (points <= boxes[:, None, :2] + boxes[:, None, 2:] + 1)
    assert inside[~np.isnan(points)].all() and (~np.isnan(points)).any(1).all()


def test_discriminative_points_are_the_parts_of_their_class(birds):
    experiment = Experiment(image_size=64, resize_size=72)
    test = CUB200(birds, "test")
    points, apart = part_points(test, experiment), discriminative_points(test, experiment)
    for row, label in enumerate(test.labels):
        counts = test.diagnostic[label]
        np.testing.assert_array_equal(apart[row][counts], points[row][counts])
        assert np.isnan(apart[row][~counts]).all()
    test.diagnostic = None
    np.testing.assert_array_equal(discriminative_points(test, experiment), points)
    test.parts = None
    assert np.isnan(discriminative_points(test, experiment)).all()


@pytest.mark.parametrize("crop", [False, True])
def test_annotated_parts_are_where_the_view_shows_them(official, crop):
    experiment = Experiment(data=str(official), image_size=112, resize_size=128, crop_to_box=crop)
    centres = np.arange(112) + 0.5
    for images in open_splits(experiment):
        points = part_points(images, experiment)
        assert points.shape == (len(images), 15, 2) and images.part_names[6] == "left eye"
        for number, places in enumerate(points):
            light = (images[number][0][0] - images[number][0].min()).numpy()
            found = places[~np.isnan(places).any(1)]
            assert 1 <= len(found) <= images.parts[number, :, 2].sum()
            left = light.copy()
            for x, y in found:
                near = (abs(centres - y) < 10)[:, None] & (abs(centres - x) < 10)
                dot = np.where(near, light, 0)
                assert abs((dot.sum(0) * centres).sum() / dot.sum() - x) < 0.7
                assert abs((dot.sum(1) * centres).sum() / dot.sum() - y) < 0.7
                left[near] = 0
            assert left.sum() < 0.02 * light.sum()  # no dot is anywhere else


def test_annotations_in_the_view_by_hand(official):
    experiment = Experiment(data=str(official), image_size=112, resize_size=128)
    train, _ = open_splits(experiment)
    third = train.ids.index(3)  # 500 x 333 pixels; its box ends below the view
    top = 27 * 128 / 333 - 8
    wanted = [60 * 128 / 500 - 8, top, 325 * 128 / 500, 112 - top]
    np.testing.assert_allclose(box_views(train, experiment)[third], wanted)
    np.testing.assert_allclose(part_points(train, experiment)[third, 6], [287.5 * 128 / 500 - 8, 210.25 * 128 / 333 - 8])
    assert np.isnan(part_points(train, experiment)[third, 0]).all()  # not visible
    cropped = experiment.replace(crop_to_box=True)
    train, _ = open_splits(cropped)
    np.testing.assert_allclose(box_views(train, cropped)[third], [0, 0, 112, 112])
    np.testing.assert_allclose(part_points(train, cropped)[third, 6], [227.5 * 128 / 325 - 8, 183.25 * 128 / 304 - 8])


def test_masks_of_boxes():
    mask = box_mask(np.array([[1, 0, 2, 2], [0, 3, 5, 1]]), (4, 5))
    assert mask.shape == (2, 4, 5)
    assert np.argwhere(mask[0]).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]] and mask[1].sum() == mask[1, 3].sum() == 5


@pytest.mark.parametrize(("patch", "box"), [(0, [0, 0, 16, 16]), (5, [12, 12, 16, 16]), (7, [36, 12, 16, 16])])
def test_boxes_of_patches(patch, box):
    assert patch_boxes(patch, cols=4, patch_size=16, stride=12).tolist() == box
