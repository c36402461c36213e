"""One way to read a photograph, for training, tests and uploads alike."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 50_000_000  # of a photograph: larger ones would take more than a gigabyte on the way

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")  # those that need no other program

Image.init()  # so that Image.OPEN lists what this build of Pillow reads: not every one has AVIF


def read_photograph(source: Path | BinaryIO, name: str = "the file", upright: bool = True) -> tuple[Image.Image, list[str]]:
    """A photograph as RGB, and remarks on what had to be done to it.

    upright: turn it as its EXIF data says; False keeps the file's own pixels, which is what annotations count.
    Transparent pixels are laid on white, of an animation the first frame is used, and grey values of more than 8 bits are
    brought to 0..255: 16-bit ones are divided by 257; floats that lie within 0..1 are multiplied by 255; floats and 32-bit
    integers that lie within 0..255 stay as they are; all others are stretched from their minimum and maximum.
    Raises DataError, calling the file `name`, for what is no image or has more than MOST_PIXELS.
    """
    remarks, size = [], "far too many"  # where Pillow opens none as large
    try:
        with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
            size = f"{image.width} x {image.height}"
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if getattr(image, "n_frames", 1) > 1:
                remarks.append(f"{image.n_frames} frames: the first is used")
            if upright:
                image = ImageOps.exif_transpose(image)
            deep = image.mode.startswith(("I", "F"))
            if deep or image.mode in ("1", "L", "LA"):
                remarks.append("greyscale: colours that tell species apart are missing")
            if deep:
                image = _eight_bits(image)
            if image.has_transparency_data:
                remarks.append("transparent: laid on white")
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB"), remarks
    except Image.DecompressionBombError:
        most = f"{MOST_PIXELS // 1_000_000} million"
        raise DataError(f"{name} has {size} pixels: scale it down to {most} or fewer") from None
    except Exception as error:  # Pillow's decoders raise of every kind
        raise DataError(f"{name} is not an image that can be read: choose a JPEG, PNG or WebP file") from error


def _eight_bits(image):
    """A grey image of 16-bit, 32-bit or float values -> one of 8 bits."""
    values = np.asarray(image, dtype=float)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if image.mode.startswith("I;16"):
        low, high = 0, 65_535
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    scaled = np.nan_to_num((values - low) / ((high - low) or 1) * 255)
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
