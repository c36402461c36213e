"""Pictures of what a model sees: milliseconds each, where a matplotlib figure takes tenths of a second."""

import io
from collections.abc import Sequence
from itertools import product

import matplotlib
import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.font_manager import fontManager
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..datasets.geometry import patch_boxes

# seaborn's palette for the colour-blind, its two oranges apart
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#56b4e9", "#d55e00", "#ca9161", "#fbafe4", "#949494", "#ece133")
COLOUR_MAP = "magma"  # perceptually even and readable in grey
STRENGTH = 0.65  # of maps over a picture
SIZE = 320  # pixels, both ways
# For names of classes in Chinese, which the usual font has no letters for; the first that is installed is used.
CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei")


def to_picture(image: torch.Tensor, normalisation: tuple) -> np.ndarray:
    """A normalised image (3, H, W) -> (H, W, 3) floats in 0..1; `normalisation` as `datasets.normalisation` gives it."""
    mean, std = map(torch.tensor, normalisation)
    return (image.permute(1, 2, 0) * std + mean).clamp(0, 1).numpy()


def photograph(picture: np.ndarray) -> Image.Image:
    """(H, W, 3) floats in 0..1 -> a picture SIZE pixels wide and high."""
    return _enlarge(picture, Image.Resampling.BICUBIC)


def overlay(
    picture: np.ndarray, weights: np.ndarray, patch_size: int, stride: int, strength: float = STRENGTH
) -> Image.Image:
    """A picture (H, W, 3) under the patches' weights (rows, cols), scaled to 0..1; strength: 0 no map, 1 nothing else.

    Each weight colours the stride-wide cell in its patch's middle, the more the larger it is; what no patch's middle covers
    stays as it is. Weights that are all the same, or not numbers, count as 0. The largest weight is framed.
    """
    weights = np.nan_to_num(weights)
    low, high = weights.min(), weights.max()
    cells = Normalize(low, high)(weights).repeat(stride, axis=0).repeat(stride, axis=1)
    margin = (patch_size - stride) // 2
    mixed = np.array(picture, dtype=float)
    covered = mixed[margin : margin + cells.shape[0], margin : margin + cells.shape[1]]
    covered[:] = blend(covered, cells, strength)
    image = _enlarge(mixed, Image.Resampling.NEAREST)
    if strength and low < high:
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        x, y, edge = (SIZE / mixed.shape[0] * one for one in (margin + column * stride, margin + row * stride, stride))
        for colour, grown in (("black", 2), ("white", 0)):  # seen in grey and on any ground, too
            frame = (x - grown, y - grown, x + edge + grown - 1, y + edge + grown - 1)
            ImageDraw.Draw(image).rectangle(frame, outline=colour, width=2)
    return image


def blend(under: np.ndarray, values: np.ndarray, strength: float = STRENGTH) -> np.ndarray:
    """Values (...) in 0..1, in colours over pixels (..., 3)."""
    opacity = strength ** (3 - 2 * values)[..., None]  # a small value hides little of the bird
    return (1 - opacity) * under + opacity * _coloured(values, 0, 1)


def heat(values: np.ndarray) -> Image.Image:
    """A map (H, W) of values from 0 up, the highest half per cent of them cut to one colour."""
    values = np.nan_to_num(values)
    return _enlarge(_coloured(values, 0, np.quantile(values, 0.995)), Image.Resampling.NEAREST)


def marked(
    picture: np.ndarray,
    parts: np.ndarray,
    columns: int,
    patch_size: int,
    stride: int,
    top_k: int = 1,
    points: np.ndarray | Sequence = (),
) -> Image.Image:
    """A picture with the selected patches (K * top_k), framed in the colour of their head, whose number stands beside it.

    points: places (M, 2) x y that the numbers leave free, as far as they can.
    """
    image = photograph(picture)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=20)
    boxes = (patch_boxes(parts, columns, patch_size, stride) * SIZE / picture.shape[0]).tolist()
    numbers, taken = [], (np.reshape(points, (-1, 2)) * SIZE / picture.shape[0]).tolist()

    def crowded(at):
        out = not (10 <= at[0] <= SIZE - 10 and 10 <= at[1] <= SIZE - 10)
        return out, sum(np.abs(np.subtract(at, other)).max() < 18 for other in taken)

    for place, (x, y, edge, _) in enumerate(boxes):
        head = place // top_k
        before = boxes[:place].count(boxes[place])  # heads that chose the same patch write side by side
        inset, colour = max(0, min(4 * before, edge / 2 - 4)), COLOURS[head % len(COLOURS)]
        frame = (x + inset, y + inset, x + edge - inset, y + edge - inset)
        pen.rectangle([*np.add(frame, (-1, -1, 1, 1))], outline="black")
        pen.rectangle(frame, outline=colour, width=4)
        pen.rectangle(frame, outline="white", width=1)  # stands out in grey, too
        # what is in the patch stays to be seen: the number is above it or below, at the first corner with room
        sides = product((x + 9 + 18 * before, x + edge - 9 - 18 * before), (y - 6, y + edge + 9))
        taken.append(min(sides, key=crowded))
        numbers.append((taken[-1], str(head + 1), colour))
    for (x, y), number, colour in numbers:  # on top of all frames
        left, top, right, bottom = pen.textbbox((x, y + 8), number, font=font, anchor="ms")
        pen.rectangle((left - 3, top - 3, right + 2, bottom + 3), fill=colour)
        pen.text((x, y + 8), number, fill=ink(colour), font=font, anchor="ms")
    return image


def ink(colour: str) -> str:
    """The colour of letters that are readable on this one."""
    return "white" if ImageColor.getcolor(colour, "L") < 100 else "black"


def in_a_row(images: list[Image.Image], titles: list[str], caption: str) -> Image.Image:
    """Pictures side by side, each below its title, and a caption below all."""
    gap, head = 8, 26
    sheet = Image.new("RGB", (len(images) * (SIZE + gap) + gap, SIZE + 2 * head + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = gap + place * (SIZE + gap)
        pen.text((x, 4), title, fill="black", font=font)
        sheet.paste(image, (x, head))
    pen.text((gap, SIZE + head + 5), caption, fill="black", font=font if caption.isascii() else _cjk(15) or font)
    return sheet


def _cjk(size):
    files = {font.name: font.fname for font in fontManager.ttflist}
    return next((ImageFont.truetype(files[name], size) for name in CJK if name in files), None)


def jpeg(image: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _coloured(values, low, high):
    """Values from low to high in colours (..., 3); one colour if low is high."""
    return matplotlib.colormaps[COLOUR_MAP](Normalize(low, high, clip=True)(values))[..., :3]


def _enlarge(picture, how):
    return Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8)).resize((SIZE, SIZE), how)
