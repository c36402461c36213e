import io
import shutil

import numpy as np
import pytest
from PIL import Image, features

from fgvc_lib.datasets import photographs as module
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.image_set import ImageSet
from fgvc_lib.datasets.photographs import read_photograph
from fgvc_lib.errors import DataError


def noise(shape, high=256):
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


def set_of_one(path):
    return ImageSet([path], [0], ["a"])


def loaded(path):
    """The pixels that training sees, after a check that an upload gives the same ones."""
    trained = np.asarray(set_of_one(path).load(0))
    uploaded, _ = read_photograph(io.BytesIO(path.read_bytes()))
    np.testing.assert_array_equal(trained, np.asarray(uploaded))
    return trained


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "P", "RGBA", "I;16", "I", "F"])
def test_every_image_becomes_rgb(tmp_path, mode):
    Image.new(mode, (30, 20)).save(tmp_path / "a", format="TIFF" if mode in ("CMYK", "I", "F") else "PNG")
    assert loaded(tmp_path / "a").shape == (20, 30, 3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_ordinary_pixels_are_left_alone(tmp_path, name):
    Image.fromarray(noise((20, 30, 3))).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        np.testing.assert_array_equal(loaded(tmp_path / name), np.asarray(image))


def test_transparent_pixels_are_laid_on_white(tmp_path):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 10:30] = 200, 50, 50, 255
    pixels[0, 0] = 0, 0, 0, 51
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = loaded(tmp_path / "a.png")
    assert (
        found[20, 20].tolist() == [200, 50, 50] and found[5, 5].tolist() == [255] * 3 and found[0, 0].tolist() == [204] * 3
    )
    assert read_photograph(tmp_path / "a.png")[1] == ["transparent: laid on white"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 300, 32_896, 65_535]], np.uint16), [0, 1, 1, 128, 255]),
        (np.array([[0, 0.25, 1]], np.float32), [0, 64, 255]),
        (np.array([[0, 1.5, 200, 255]], np.float32), [0, 2, 200, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[1000, 1500, 2000]], np.float32), [0, 128, 255]),
        (np.array([[1000, 1500, 2000]], np.int32), [0, 128, 255]),
        (np.array([[0, 1, 200]], np.int32), [0, 1, 200]),
        (np.array([[np.nan, 0, 1, np.inf, -np.inf]], np.float32), [0, 0, 255, 255, 0]),
        (np.array([[700, 700]], np.float32), [0, 0]),
    ],
)
def test_grey_of_more_than_eight_bits_is_scaled(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert loaded(tmp_path / "a.tif")[0, :, 0].tolist() == expected
    assert "greyscale" in read_photograph(tmp_path / "a.tif")[1][0]
    if values.dtype == np.uint16:
        Image.fromarray(values).save(tmp_path / "a.png")
        assert loaded(tmp_path / "a.png")[0, :, 0].tolist() == expected


def test_upright_unless_annotations_count_the_files_own_pixels(cub):
    images = CUB200(cub)
    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter
    Image.fromarray(noise((20, 30, 3))).save(images.paths[0], exif=turned, format="PNG")
    assert images.load(0).size == (20, 30) == read_photograph(images.paths[0])[0].size
    images.boxes = np.zeros((len(images), 4))
    assert images.load(0).size == (30, 20) == read_photograph(images.paths[0], upright=False)[0].size


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert loaded(tmp_path / "a.gif")[4, 4].tolist() == [255, 0, 0]
    assert read_photograph(tmp_path / "a.gif")[1] == ["2 frames: the first is used"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
def test_avif_whatever_it_is_called(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.avif")
    shutil.copy(tmp_path / "a.avif", tmp_path / "a.jpg")
    assert loaded(tmp_path / "a.avif").shape == loaded(tmp_path / "a.jpg").shape == (40, 60, 3)


def test_too_many_pixels_for_training_and_for_uploads(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 1_000_000)
    Image.new("1", (2000, 1000)).save(tmp_path / "big.png")
    with pytest.raises(DataError, match="^big.png has 2000 x 1000 pixels: scale it down to 1 million or fewer$"):
        read_photograph(tmp_path / "big.png", "big.png")
    with pytest.raises(DataError, match=r"/big.png has 2000 x 1000 pixels: scale it down to 1 million or fewer$"):
        set_of_one(tmp_path / "big.png").load(0)
    Image.new("1", (15_000, 13_000)).save(tmp_path / "panorama.png")  # more than Pillow opens
    with pytest.raises(DataError, match="^panorama.png has 195000000 pixels: scale it down"):
        read_photograph(tmp_path / "panorama.png", "panorama.png")


def test_what_is_no_image_is_named(tmp_path):
    path = tmp_path / "junk.jpg"
    path.write_bytes(b"no image")
    words = r"junk.jpg is not an image that can be read \(nothing in it says that it is a JPEG, .* file\): choose a JPEG"
    with pytest.raises(DataError, match=f"^{words}"):
        read_photograph(path, "junk.jpg")
    with pytest.raises(DataError, match=f"/{words}"):
        set_of_one(path).load(0)
