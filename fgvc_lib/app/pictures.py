"""Quick pictures for the explorer and `explain`: milliseconds each, where a matplotlib figure takes tenths of a second."""

import io
from functools import cache

import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from PIL import Image, ImageDraw, ImageFont

from ..report.plots import COLOURS, HEAT

SIZE = 320  # pixels, both ways
# For names of classes in Chinese, which the usual font has no letters for; the first that is installed is used.
CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei")


def photograph(picture: np.ndarray) -> Image.Image:
    """(H, W, 3) floats in 0..1 -> a picture SIZE pixels wide and high."""
    return _enlarge((np.asarray(picture) * 255).round().astype(np.uint8), Image.Resampling.BICUBIC)


def overlay(picture: np.ndarray, weights: np.ndarray, patch_size: int, stride: int, strength: float = 0.65) -> Image.Image:
    """A picture (H, W, 3) under the patches' weights (rows, cols), scaled to 0..1; strength: 0 no map, 1 nothing else.

    Each weight colours the stride-wide cell in its patch's middle; what no patch's middle covers stays as it is.
    """
    weights = (weights - weights.min()) / max(np.ptp(weights), 1e-12)
    cells = np.kron(weights, np.ones((stride, stride)))
    margin = (patch_size - stride) // 2
    covered = tuple(slice(margin, margin + side) for side in cells.shape)
    mixed = np.array(picture, dtype=float)
    cells = cells[: mixed[covered].shape[0], : mixed[covered].shape[1]]
    mixed[covered] = (1 - strength) * mixed[covered] + strength * _coloured(cells)
    return _enlarge((mixed * 255).round().astype(np.uint8), Image.Resampling.NEAREST)


def heat(values: np.ndarray) -> Image.Image:
    """A map (H, W) of values from 0 up, the highest half per cent of them cut to one colour."""
    top = np.quantile(values, 0.995)
    return _enlarge((_coloured(np.clip(values / max(top, 1e-12), 0, 1)) * 255).astype(np.uint8), Image.Resampling.NEAREST)


def marked(
    picture: np.ndarray, parts: np.ndarray, columns: int, patch_size: int, stride: int, top_k: int = 1
) -> Image.Image:
    """A picture with the selected patches (K * top_k), framed in the colour and with the number of their head."""
    image = photograph(picture)
    scale, pen = SIZE / picture.shape[0], ImageDraw.Draw(image)
    font = ImageFont.load_default(size=17)
    taken = {}  # heads that chose the same patch write side by side
    for place, part in enumerate(parts):
        head, place_in_patch = place // top_k, taken.get(int(part), 0)
        taken[int(part)] = place_in_patch + 1
        x, y = part % columns * stride * scale, part // columns * stride * scale
        edge = patch_size * scale
        inset = min(3 * place_in_patch, edge / 2 - 3)
        colour = COLOURS[head % len(COLOURS)]
        pen.rectangle((x + inset, y + inset, x + edge - inset, y + edge - inset), outline="white", width=4)
        pen.rectangle((x + inset, y + inset, x + edge - inset, y + edge - inset), outline=colour, width=2)
        at = (x + 5 + 13 * place_in_patch, y + 2)
        pen.text(at, str(head + 1), fill="white", font=font, stroke_width=2, stroke_fill="black")
    return image


def in_a_row(images: list[Image.Image], titles: list[str], caption: str) -> Image.Image:
    """Pictures side by side, each below its title, and a caption below all."""
    gap, head = 8, 26
    sheet = Image.new("RGB", (len(images) * (SIZE + gap) + gap, SIZE + 2 * head + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = gap + place * (SIZE + gap)
        pen.text((x, 4), title, fill="black", font=font)
        sheet.paste(image, (x, head))
    pen.text((gap, SIZE + head + 5), caption, fill="black", font=(None if caption.isascii() else _cjk(15)) or font)
    return sheet


@cache
def _cjk(size):
    files = {font.name: font.fname for font in fontManager.ttflist}
    return next((ImageFont.truetype(files[name], size) for name in CJK if name in files), None)


def jpeg(image: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _coloured(values):
    return matplotlib.colormaps[HEAT](values)[..., :3]


def _enlarge(pixels, how):
    return Image.fromarray(pixels).resize((SIZE, SIZE), how)
