import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from fgvc_lib.app import pictures

PICTURE = np.full((32, 32, 3), 0.5)


def pixels(image):
    return np.asarray(image) / 255


def test_importing_pictures_loads_neither_seaborn_nor_ipython_nor_the_report():
    code = (
        "import sys, fgvc_lib.app.pictures; "
        "assert not {'seaborn', 'IPython', 'fgvc_lib.report'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_to_picture_undoes_the_normalisation():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    image = torch.zeros(3, 4, 4)
    image[0, 0, 0] = 100  # clipped
    picture = pictures.to_picture(image, (mean, std))
    assert picture.shape == (4, 4, 3) and picture[1, 1] == pytest.approx(mean) and picture[0, 0, 0] == 1


@pytest.mark.parametrize(
    "weights", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.where(np.eye(3), np.nan, 0.5), np.full((3, 3), 0.25)]
)
def test_a_map_without_differences_divides_by_nothing(weights):
    with np.errstate(all="raise"):
        image = pictures.overlay(PICTURE, weights, patch_size=12, stride=10, strength=1.0)
        flat = pictures.heat(np.full((32, 32), 0.0) * weights[0, 0])
    assert pixels(image).max() <= 1 and image.size == flat.size == (pictures.SIZE, pictures.SIZE)
    assert pixels(flat).max() < 0.05  # the darkest colour of the map


def test_the_heaviest_patch_is_brightest_and_the_margin_stays():
    weights = np.zeros((3, 3))
    weights[1, 2] = 7
    found = pixels(pictures.overlay(PICTURE, weights, patch_size=12, stride=10, strength=1.0))
    scale = pictures.SIZE / 32
    bright, dark = (found[int(16 * scale), int(x * scale)].sum() for x in (26, 6))
    assert bright > 2.5 and dark < 0.2
    assert found[2, 2] == pytest.approx([0.5] * 3, abs=0.01)  # no patch's middle covers the corner


def test_selected_patches_are_framed_in_the_colours_of_their_heads():
    found = pixels(pictures.marked(PICTURE, np.array([0, 8]), columns=3, patch_size=12, stride=10))
    scale = pictures.SIZE / 32
    for head, (x, y) in enumerate([(0, 0), (20, 20)]):
        colour = tuple(int(pictures.COLOURS[head][i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert found[int((y + 11.8) * scale), int((x + 6) * scale)] == pytest.approx(colour)  # the lower edge


def test_patches_of_14_at_steps_of_10_lie_where_the_model_sees_them():
    """As in profile `photos`: 126 pixels, 12 x 12 patches, the last of which end 2 pixels before the edge."""
    picture, scale = np.full((126, 126, 3), 0.5), pictures.SIZE / 126
    weights = np.zeros((12, 12))
    weights[3, 11] = 1.0  # x 110 to 124, y 30 to 44; its cell is the middle 10 x 10
    found = pixels(pictures.overlay(picture, weights, patch_size=14, stride=10, strength=1.0)).sum(-1)
    rows, columns = np.nonzero(found > 2.5)
    assert (rows.min() / scale, (rows.max() + 1) / scale) == pytest.approx((32, 42), abs=0.5)
    assert (columns.min() / scale, (columns.max() + 1) / scale) == pytest.approx((112, 122), abs=0.5)
    found = pixels(pictures.marked(picture, np.array([3 * 12 + 11]), columns=12, patch_size=14, stride=10))
    changed = np.abs(found - 0.5).max(-1) > 0.05
    frame = np.nonzero(changed[int(37 * scale)])[0] / scale  # a row through the middle of the patch
    assert (frame.min(), frame.max()) == pytest.approx((110, 124), abs=0.6)
    assert not changed[int(35 * scale) : int(40 * scale), int(113 * scale) : int(121 * scale)].any()  # the number is outside


def test_heads_that_chose_the_same_patch_are_all_seen():
    one, two = (pixels(pictures.marked(PICTURE, np.array(parts), 3, 12, 10)) for parts in ([4], [4, 4]))
    assert not np.array_equal(one, two)
    pairs = pixels(pictures.marked(PICTURE, np.array([4, 5]), 3, 12, 10, top_k=2))  # two patches of head 1
    assert not np.array_equal(pairs, pixels(pictures.marked(PICTURE, np.array([4, 5]), 3, 12, 10)))


def test_numbers_keep_off_the_places_that_are_to_be_seen():
    scale = pictures.SIZE / 32
    for corner in ([10.9, 9.4], [21.1, 9.4], [10.9, 22.9]):  # where the number would stand, x y, in pixels of PICTURE
        free = pixels(pictures.marked(PICTURE, np.array([4]), 3, 12, 10, points=np.array([corner, [np.nan] * 2])))
        x, y = (int(scale * one) for one in corner)
        assert free[y - 5 : y + 5, x - 8 : x + 8] == pytest.approx(0.5, abs=0.01)
    assert not np.array_equal(free, pixels(pictures.photograph(PICTURE)))


def test_numbers_are_readable_on_their_colour():
    def luminance(colour):
        parts = np.array(to_rgb(colour))
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722] + 0.05

    for colour in pictures.COLOURS:
        light, dark = sorted([luminance(colour), luminance(pictures.ink(colour))], reverse=True)
        assert light / dark >= 4.5, colour


def test_the_largest_weight_is_framed_in_black_and_white_where_there_is_a_map():
    weights, edge = np.zeros((3, 3)), 11 * pictures.SIZE // 32
    weights[1, 2] = 7
    found = pixels(pictures.overlay(PICTURE, weights, patch_size=12, stride=10))
    assert found[edge - 2 : edge, 260] == pytest.approx(0) and found[edge : edge + 2, 260] == pytest.approx(1)
    assert found[edge + 50, 260] == pytest.approx(pictures.blend(PICTURE, np.ones((32, 32)))[0, 0], abs=0.01)
    assert pixels(pictures.overlay(PICTURE, weights, 12, 10, strength=0.0)) == pytest.approx(0.5, abs=0.01)


def test_a_row_of_pictures_is_one_jpeg():
    sheet = pictures.in_a_row([pictures.photograph(PICTURE)] * 2, ["a", "b"], "caption")
    assert sheet.width > 2 * pictures.SIZE and pictures.jpeg(sheet).startswith(b"\xff\xd8")
