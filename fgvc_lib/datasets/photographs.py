"""One way to read a photograph, for all that read one."""

from PIL import Image, ImageOps

from ..errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # those that need no other program
MOST_PIXELS = 50_000_000  # of a photograph: larger ones would take more than a gigabyte on the way


def read_photograph(source, name: str = "the file") -> tuple[Image.Image, list[str]]:
    """A photograph as RGB, upright, and remarks on what had to be done to it. source: a path or an open file.

    Raises DataError, calling it `name`, for what is no image or has more than MOST_PIXELS.
    """
    remarks = []
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels"
                raise DataError(f"{name} has {size}: scale it down to {MOST_PIXELS // 1_000_000} million or fewer")
            if getattr(image, "n_frames", 1) > 1:
                remarks.append(f"{image.n_frames} frames: the first is used")
            if image.mode in ("1", "L", "LA", "I", "I;16"):
                remarks.append("greyscale: colours that tell species apart are missing")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                remarks.append("transparent: laid on white")
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB"), remarks
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise of every kind
        raise DataError(f"{name} is not an image that can be read: choose a JPEG, PNG or WebP file") from error
