"""Pictures of what a model sees: milliseconds each, where a matplotlib figure takes tenths of a second."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.font_manager import fontManager
from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageFont

from ..datasets.geometry import patch_boxes

# seaborn's palette for the colour-blind, its two oranges apart
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#56b4e9", "#d55e00", "#ca9161", "#fbafe4", "#949494", "#ece133")
COLOUR_MAP = "magma_r"  # perceptually even and readable in grey; weak values stay visible on its light ground
STRENGTH = 0.9  # of maps over a picture
DIMMED = 0.65  # how bright the picture below is, so that squares stand out on white feathers, too
SIZE = 320  # pixels, both ways
# For names of classes in Chinese, which the usual font has no letters for; the first that is installed is used.
CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei")


def to_picture(image: torch.Tensor, normalisation: tuple) -> np.ndarray:
    """A normalised image (3, H, W) -> (H, W, 3) floats in 0..1; `normalisation` as `datasets.normalisation` gives it."""
    mean, std = map(torch.tensor, normalisation)
    return (image.permute(1, 2, 0) * std + mean).clamp(0, 1).numpy()


def photograph(picture: np.ndarray) -> Image.Image:
    """(H, W, 3) floats in 0..1, or bytes -> a picture SIZE pixels wide and high."""
    return _enlarge(picture, Image.Resampling.BICUBIC)


def overlay(
    picture: np.ndarray, weights: np.ndarray, patch_size: int, stride: int, strength: float = STRENGTH
) -> Image.Image:
    """A picture (H, W, 3) under the patches' weights (rows, cols); strength: 0 no map, 1 opaque.

    Each weight is a square in the middle of its patch. Its area grows from nothing at the map's smallest weight to the
    stride-wide cell at the largest, so that it is seen in grey, too, and the bird between the squares (a Hinton diagram).
    Weights that are all the same, or not numbers, count as 0.
    """
    weights = np.nan_to_num(weights)
    image = photograph(picture)
    drawn, scale = ImageEnhance.Brightness(image).enhance(DIMMED), SIZE / picture.shape[0]
    pen = ImageDraw.Draw(drawn)
    shares = np.asarray(Normalize(weights.min(), weights.max())(weights))
    colours = (255 * share_colours(shares)).round().astype(int)
    centres = scale * (np.indices(shares.shape)[::-1] * stride + patch_size / 2)  # (2, rows, cols), x first
    for place in zip(*np.nonzero(shares), strict=True):
        (x, y), half = centres[:, *place], scale * stride / 2 * shares[place] ** 0.5
        if half > 1:  # a smaller one would be all edge
            square = (x - half, y - half, x + half - 1, y + half - 1)
            pen.rectangle(square, fill=tuple(colours[place]), outline="black", width=1 + (half > 5))
    return Image.blend(image, drawn, strength)


def share_colours(shares: np.ndarray) -> np.ndarray:
    """The colours (..., 3) of squares on `overlay`: of weights that are these shares of the way from the smallest to the
    largest."""
    bright = 0.7 + 0.3 * np.asarray(shares)  # the squares' edges are black
    return matplotlib.colormaps["plasma"](bright)[..., :3]


def heat(values: np.ndarray) -> Image.Image:
    """A map (H, W) of values from 0 up, the highest half per cent of them cut to one colour."""
    values = np.nan_to_num(values)
    shares = Normalize(0, np.quantile(values, 0.995), clip=True)(values)
    return _enlarge(matplotlib.colormaps[COLOUR_MAP](shares)[..., :3], Image.Resampling.NEAREST)


def marked(
    picture: np.ndarray,
    parts: np.ndarray,
    columns: int,
    patch_size: int,
    stride: int,
    top_k: int = 1,
    points: np.ndarray | Sequence = (),
) -> Image.Image:
    """A picture with the selected patches (K * top_k), framed in the colour of their head; a line leads from each to
    its head's number.

    points: places (M, 2) x y that should be hit, each a cross; numbers leave them free, as far as they can.
    """
    image = photograph(picture)
    pen, scale = ImageDraw.Draw(image), SIZE / picture.shape[0]
    boxes = patch_boxes(parts, columns, patch_size, stride) * scale
    edge, heads = patch_size * scale, np.arange(len(boxes)) // top_k
    colours = [COLOURS[head % len(COLOURS)] for head in heads]
    for (x, y, *_), colour in zip(boxes, colours, strict=True):
        frame = (x, y, x + edge, y + edge)
        pen.rectangle([*np.add(frame, (-1, -1, 1, 1))], outline="black")
        pen.rectangle(frame, outline=colour, width=3)
        pen.rectangle(frame, outline="white", width=1)  # stands out in grey, too
    points = np.reshape(points, (-1, 2)) * scale
    for colour, width, half in (("black", 5, 11), ("white", 3, 10)):
        for x, y in points[np.isfinite(points).all(1)]:
            pen.line((x - half, y, x + half, y), fill=colour, width=width)
            pen.line((x, y - half, x, y + half), fill=colour, width=width)
    number(image, boxes[:, :2] + edge / 2, heads + 1, colours, edge / 2, points)
    return image


def number(
    image: Image.Image, places: np.ndarray, numbers: Sequence, colours: Sequence[str], away: float, points: np.ndarray
) -> None:
    """Draw a dot at each place (N, 2) x y, and a line from it to its number, which stands at least `away` from it and leaves
    the other places and the points (M, 2) free, as far as it can."""
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=22)
    tags = _places_for_numbers(places, away, points)
    for line, width, radius in (("black", 4, 4), ("white", 2, 3)):
        for place, tag in zip(places, tags, strict=True):
            pen.line([*place, *tag], fill=line, width=width)
            pen.ellipse([*(place - radius), *(place + radius)], fill=line)
    for (x, y), one, colour in zip(tags, numbers, colours, strict=True):  # on top of all
        left, top, right, bottom = pen.textbbox((x, y), str(one), font=font, anchor="mm")
        pen.rectangle((left - 4, top - 4, right + 3, bottom + 4), fill=colour, outline="black")
        pen.text((x, y), str(one), fill=ink(colour), font=font, anchor="mm")


def _places_for_numbers(centres, away, points):
    angles, tags = np.arange(16) * np.pi / 8, np.empty((0, 2))
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    around = np.concatenate([(away + further) * circle for further in (18, 30, 44, 60)])  # nearest first
    for centre in centres:
        spots = centre + around

        def near(others, within, spots=spots):
            return (np.abs(spots[:, None] - others).max(-1) < within).sum(1)

        outside = ((spots < 14) | (spots > SIZE - 14)).any(1)
        crowded = 4 * outside + 2 * near(tags, 24) + 2 * near(points, 24) + near(centres, away + 10)
        tags = np.append(tags, spots[[crowded.argmin()]], axis=0)
    return tags


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


def _enlarge(picture, how):
    if np.asarray(picture).dtype != np.uint8:
        picture = (np.asarray(picture) * 255).round().astype(np.uint8)
    return Image.fromarray(np.asarray(picture)).resize((SIZE, SIZE), how)
