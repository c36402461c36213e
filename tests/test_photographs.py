import io
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from fgvc_lib.datasets import photographs as module
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.image_set import ImageSet
from fgvc_lib.datasets.photographs import is_photograph, read_photograph
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
    words = r"junk.jpg is not an image that can be read \(it has no pixels, or .* none of JPEG, .*\): choose a JPEG"
    with pytest.raises(DataError, match=f"^{words}"):
        read_photograph(path, "junk.jpg")
    with pytest.raises(DataError, match=f"/{words}"):
        set_of_one(path).load(0)


def tags(*entries):
    """EXIF data with one folder of entries (tag, type, count, value)."""
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (tags((0x0112, 3, 1, 6)), (20, 30)),
        (tags((0x0112, 3, 1, 6), (0x8769, 4, 1, 99_999), (0x829A, 5, 1, 88_888)), (20, 30)),
        (tags((0x0112, 3, 1, 6), (0x8769, 4, 1, 8)), (20, 30)),
        (tags((0x0112, 3, 1, 99)), (30, 20)),
        (tags((0x0112, 3, 1, 6))[:20], (30, 20)),
        (b"Exif\0\0no such thing", (30, 20)),
    ],
    ids=["whole", "pointers to nowhere", "a circle", "unknown", "cut", "none"],
)
def test_damaged_exif_data_break_nothing(tmp_path, exif, size):
    Image.fromarray(noise((20, 30, 3))).save(tmp_path / "a.jpg", exif=exif)
    assert read_photograph(tmp_path / "a.jpg")[0].size == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise((20, 30, 3))).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(loaded(tmp_path / "a.png"), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("palette.png", Image.new("P", (9, 9)), {"transparency": 0}),
        ("bytes.png", Image.new("P", (9, 9)), {"transparency": bytes(256)}),
        ("palette.gif", Image.new("P", (9, 9)), {"transparency": 0}),
        ("la.png", Image.new("LA", (9, 9)), {}),
        ("pa.tif", Image.new("PA", (9, 9)), {}),
        ("one.png", Image.new("1", (9, 9)), {"transparency": 0}),
        ("rgb.png", Image.new("RGB", (9, 9)), {"transparency": (0, 0, 0)}),
        ("deep.png", Image.new("I;16", (9, 9), 777), {"transparency": 777}),
    ],
)
def test_every_kind_of_transparency_is_white(tmp_path, name, image, options):
    image.save(tmp_path / name, **options)
    assert loaded(tmp_path / name).min() == 255
    assert "transparent: laid on white" in read_photograph(tmp_path / name)[1]


def test_grey_as_other_programs_keep_it(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023))
    assert loaded(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]
    (tmp_path / "b.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 0, 32_896))
    assert loaded(tmp_path / "b.pgm")[0, :, 0].tolist() == [0, 128]
    Image.fromarray(np.array([[0, 65_535]], np.uint16)).save(tmp_path / "c.tif", tiffinfo={262: 0})  # white is 0
    assert loaded(tmp_path / "c.tif")[0, :, 0].tolist() == [255, 0]


def test_a_later_frame_may_be_damaged(tmp_path):
    frames = [Image.fromarray(noise((20, 30, 3)) // divisor) for divisor in (1, 2, 3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = loaded(tmp_path / "a.gif")
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 2 // 3])
    np.testing.assert_array_equal(loaded(tmp_path / "a.gif"), whole)


def cut(path):
    Image.fromarray(noise((99, 99, 3))).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "it is no file"),
        (os.mkfifo, "it is no file"),
        (lambda path: None, "No such file or directory"),
        (Path.touch, "it is empty"),
        (cut, r"truncated.*\): it is cut off, copy it again"),
        (lambda path: path.write_bytes(b"P6 0 5 255\n"), "it has no pixels"),
        (lambda path: path.write_bytes(b"<svg></svg>"), "or is none of JPEG, PNG"),
        (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "pip install 'fgvc_lib.heif.'|no pixels"),
    ],
)
def test_why_a_photograph_cannot_be_read(tmp_path, make, reason):
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=rf"a\.jpg is not an image that can be read \(.*({reason})"):
        read_photograph(tmp_path / "a.jpg")


def test_its_content_says_what_is_a_photograph(tmp_path):
    for name, kind in (("a", "PNG"), ("b.dat", "JPEG"), ("c.cr2", "TIFF"), ("d.tif", "TIFF")):
        Image.new("RGB", (9, 9)).save(tmp_path / name, format=kind)
        assert is_photograph(tmp_path / name) == (name != "c.cr2")
    (tmp_path / "notes.txt").write_text("BMW, P5, and a GIF")
    os.mkfifo(tmp_path / "pipe")
    assert not is_photograph(tmp_path / "notes.txt") and not is_photograph(tmp_path / "pipe")


def test_heic_with_the_extra(tmp_path):
    pytest.importorskip("pillow_heif")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.heic")
    shutil.copy(tmp_path / "a.heic", tmp_path / "a.jpg")
    assert loaded(tmp_path / "a.heic").shape == loaded(tmp_path / "a.jpg").shape == (40, 60, 3)
