"""One way to read a photograph, for training, tests and uploads alike."""

import re
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import DataError

with suppress(ImportError):  # the extra `heif`
    from pillow_heif import register_heif_opener

    register_heif_opener()

MOST_PIXELS = 50_000_000  # of a photograph: larger ones would take more than a gigabyte on the way

Image.init()  # so that Pillow lists what it reads here: not every build has AVIF
KINDS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", "HEIF")  # those that need no other program
FORMATS = [kind for kind in KINDS if kind in Image.registered_extensions().values()]
SUFFIXES = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
# What its first bytes tell, whatever it is called: not those that begin as cameras' raw files or plain text may, too.
MARKED = [kind for kind in FORMATS if kind not in ("TIFF", "BMP", "PPM")]
HEIF = "HEIC files need the extra heif: pip install 'fgvc_lib[heif]'"
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # by the value of EXIF's Orientation


def is_photograph(path: Path) -> bool:
    """Whether a file is called like a photograph, or begins like one. It may be damaged all the same."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    start = _start(path) if path.is_file() else b""
    return any(Image.OPEN[kind][1](start) is True for kind in MARKED)


def read_photograph(source: Path | BinaryIO, name: str = "", upright: bool = True) -> tuple[Image.Image, list[str]]:
    """A photograph as RGB, and remarks on what had to be done to it. Its content says what it is, whatever it is called.

    name: what a message calls it, the path itself unless told. upright: turn it as its EXIF data says; False keeps the
    file's own pixels, which is what annotations count.
    Transparent pixels are laid on white, of several frames or pages the first is used, and grey values of more than 8 bits
    are brought to 0..255: those of 12 and 16 bits are divided by 4095 / 255 and 257; floats that lie within 0..1 are
    multiplied by 255; floats and 32-bit integers that lie within 0..255 stay as they are; all others are stretched from
    their minimum and maximum.
    Raises DataError, with the reason, for what is no image that can be read or has more than MOST_PIXELS.
    """
    remarks = []
    with _opened(source, name or str(source)) as image:
        image.load()
        photograph = _as_rgb(image, upright, remarks)
        with suppress(Exception):  # a later frame may be damaged
            if image.n_frames > 1:
                remarks.append(f"{image.n_frames} frames: the first is used")
        return photograph, remarks


def photograph_size(path: Path) -> tuple[int, int]:
    """(width, height) of a photograph in its file's own pixels, from its header. Raises DataError as `read_photograph`."""
    with _opened(path, str(path)) as image:
        return image.size


@contextmanager
def _opened(source, name):
    """An image whose header is read. Raises DataError for all that goes wrong with it."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise OSError("it is no file")  # and a pipe would be waited for
        # A file that is open: of a path Pillow maps some TIFF files into memory, and forgets to turn those.
        opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with opened as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except Image.DecompressionBombError as error:
        size = re.search(r"\d[\dx ]* pixels", str(error))
        most = f"{MOST_PIXELS // 1_000_000} million"
        raise DataError(f"{name} has {size[0] if size else 'too many pixels'}: scale it down to {most} or fewer") from None
    except Exception as error:  # Pillow's decoders raise of every kind
        reason = _unknown(_start(source)) if isinstance(error, UnidentifiedImageError) else None
        reason = reason or getattr(error, "strerror", None) or str(error) or type(error).__name__
        way = "it is cut off, copy it again" if "truncated" in reason.lower() else "choose a JPEG, PNG or WebP file"
        raise DataError(f"{name} is not an image that can be read ({reason}): {way}") from error


def _as_rgb(image, upright, remarks):
    """A loaded image as RGB; adds to the remarks."""
    deep, transparent = image.mode.startswith(("I", "F")), image.has_transparency_data
    if deep or image.mode in ("1", "L", "LA"):
        remarks.append("greyscale: colours that tell species apart are missing")
    if transparent:
        remarks.append("transparent: laid on white")
    turn = None
    if upright:
        try:
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
        except Exception:  # of every kind, again
            remarks.append("its EXIF data is damaged: not turned")
    if deep:
        image = _eight_bits(image)
    elif transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return (image if turn is None else image.transpose(turn)).convert("RGB")


def _eight_bits(image):
    """A grey image of 12-bit, 16-bit, 32-bit or float values -> one of 8 bits, what is transparent white."""
    values, tags = np.asarray(image, dtype=float), getattr(image, "tag_v2", {})
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        low, high = 0, 4095 if tags.get(258) == (12,) else 65_535  # TIFF's BitsPerSample
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    scaled = np.nan_to_num((values - low) / ((high - low) or 1) * 255)
    if tags.get(262) == 0:  # TIFF's PhotometricInterpretation: white is 0
        scaled = 255 - scaled
    scaled[values == image.info.get("transparency")] = 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _start(source):
    """A file's first bytes."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return file.read(16)
        source.seek(0)
        return source.read(16)
    except OSError:
        return b""


def _unknown(start):
    """Why Pillow knows no format for a file that begins like this."""
    if not start:
        return "it is empty"
    if start[4:8] == b"ftyp" and "HEIF" not in FORMATS:
        return HEIF
    return f"it has no pixels, or is damaged where it begins, or is none of {', '.join(FORMATS)}"
