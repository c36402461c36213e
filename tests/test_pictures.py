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
    assert pixels(flat).min() > 0.7  # the lightest colour of the map, that of 0


def test_a_weight_is_a_square_whose_area_grows_with_it():
    """Nothing at the smallest weight, the stride-wide cell at the largest, in the middle of the patch."""
    weights = np.zeros((3, 3))
    weights[1, 2], weights[1, 1] = 7, 7 / 4
    squares = np.asarray(pictures.overlay(PICTURE, weights, patch_size=12, stride=10, strength=1.0)).astype(int)
    ground = int(127.5 * pictures.DIMMED)
    scale = pictures.SIZE / 32
    rows, _ = np.nonzero(np.abs(squares - ground).max(-1) > 5)
    assert (rows.min() / scale, (rows.max() + 1) / scale) == pytest.approx((11, 21), abs=0.1)  # the middle row of cells
    line = np.nonzero(np.abs(squares[int(16 * scale)] - ground).max(-1) > 5)[0] / scale
    large, small = line[line > 21], line[line < 21]
    assert (large.min(), large.max()) == pytest.approx((21, 31), abs=0.2)
    assert (small.min(), small.max()) == pytest.approx((16 - 2.5, 16 + 2.5), abs=0.2)  # a quarter of the area
    for x, share in ((26, 1), (16, 0.25)):
        (colour,) = pictures.share_colours([share]) * 255
        assert squares[int(16 * scale), int(x * scale)] == pytest.approx(colour, abs=1)
        assert squares[int(16 * scale), int(x * scale)] @ [0.299, 0.587, 0.114] > 2 * ground * 0.85  # stands out in grey
    assert (squares[int(11 * scale) + 1, int(26 * scale)] == 0).all()  # a black edge


def test_opacity_of_a_map_is_its_strength():
    weights = np.zeros((3, 3))
    weights[1, 2] = 7
    none, half, whole = (pixels(pictures.overlay(PICTURE, weights, 12, 10, strength)) for strength in (0.0, 0.5, 1.0))
    assert none == pytest.approx(0.5, abs=0.01) and half == pytest.approx((none + whole) / 2, abs=0.01)


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
    found = pixels(pictures.overlay(picture, weights, patch_size=14, stride=10, strength=1.0))
    rows, columns = np.nonzero(np.abs(found - 0.5 * pictures.DIMMED).max(-1) > 0.05)
    assert (rows.min() / scale, (rows.max() + 1) / scale) == pytest.approx((32, 42), abs=0.5)
    assert (columns.min() / scale, (columns.max() + 1) / scale) == pytest.approx((112, 122), abs=0.5)
    found = pixels(pictures.marked(picture, np.array([3 * 12 + 11]), columns=12, patch_size=14, stride=10))
    changed = np.abs(found - 0.5).max(-1) > 0.05
    frame = np.nonzero(changed[int(43 * scale)])[0] / scale  # a row near the lower edge of the patch
    assert (frame.min(), frame.max()) == pytest.approx((110, 124), abs=0.6)
    tag = np.nonzero(changed.any(1))[0] / scale, np.nonzero(changed.any(0))[0] / scale
    assert tag[0].min() < 28 or tag[0].max() > 46 or tag[1].min() < 108  # the number is outside


def test_a_line_joins_each_number_with_the_centre_of_its_patch():
    """Where patches overlap, it says which is whose, in grey, too."""
    scale = pictures.SIZE / 32
    found = pixels(pictures.marked(PICTURE, np.array([0, 1, 4]), columns=3, patch_size=12, stride=10))
    for x, y in ((6, 6), (16, 6), (16, 16)):
        assert found[int(y * scale), int(x * scale)] == pytest.approx(1)  # a white dot
    one = pixels(pictures.marked(PICTURE, np.array([4]), columns=3, patch_size=12, stride=10))
    row = one[int(16 * scale)]
    white = np.nonzero((row == 1).all(-1))[0]
    assert white.min() < 16 * scale + 1 and white.max() > 22 * scale  # from the centre to beyond the patch's right edge


def test_heads_that_chose_the_same_patch_are_all_seen():
    one, two = (pixels(pictures.marked(PICTURE, np.array(parts), 3, 12, 10)) for parts in ([4], [4, 4]))
    assert not np.array_equal(one, two)
    pairs = pixels(pictures.marked(PICTURE, np.array([4, 5]), 3, 12, 10, top_k=2))  # two patches of head 1
    assert not np.array_equal(pairs, pixels(pictures.marked(PICTURE, np.array([4, 5]), 3, 12, 10)))


def test_numbers_keep_off_the_places_that_are_to_be_seen_and_off_each_other():
    scale, parts = pictures.SIZE / 32, np.array([4])
    plain = pixels(pictures.marked(PICTURE, parts, 3, 12, 10))
    place = np.array([22.0 + 18 / scale, 16.0])  # where the number stands, x y, in pixels of PICTURE
    x, y = (int(scale * one) for one in place)
    blue = np.array(to_rgb(pictures.COLOURS[0]))
    assert (np.abs(plain[y - 9 : y + 9, x - 9 : x + 9] - blue).max(-1) < 0.01).sum() > 50
    free = pixels(pictures.marked(PICTURE, parts, 3, 12, 10, points=np.array([place, [np.nan] * 2])))
    around = free[y - 9 : y + 9, x - 9 : x + 9]
    assert not (np.abs(around - blue).max(-1) < 0.01).any() and free[y, x] == pytest.approx(1)  # the middle of the cross
    assert around[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx(0.5, abs=0.01)
    both = pixels(pictures.marked(PICTURE, np.array([4, 4]), 3, 12, 10))
    blues, oranges = (
        (np.abs(both - np.array(to_rgb(pictures.COLOURS[head]))).max(-1) < 0.01) & ~_inside(both, 10, 22, scale)
        for head in (0, 1)
    )
    assert blues.sum() > 100 and oranges.sum() > 100  # both numbers are seen


def _inside(image, low, high, scale):
    place = np.zeros(image.shape[:2], dtype=bool)
    place[int(low * scale) - 2 : int(high * scale) + 2, int(low * scale) - 2 : int(high * scale) + 2] = True
    return place


def test_numbers_are_readable_on_their_colour():
    def luminance(colour):
        parts = np.array(to_rgb(colour))
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722] + 0.05

    for colour in pictures.COLOURS:
        light, dark = sorted([luminance(colour), luminance(pictures.ink(colour))], reverse=True)
        assert light / dark >= 4.5, colour


def test_a_row_of_pictures_is_one_jpeg():
    sheet = pictures.in_a_row([pictures.photograph(PICTURE)] * 2, ["a", "b"], "caption")
    assert sheet.width > 2 * pictures.SIZE and pictures.jpeg(sheet).startswith(b"\xff\xd8")
