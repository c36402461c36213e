"""The report's figures of pictures: panels of images, maps and patches. Each function returns a matplotlib Figure."""

import textwrap
from collections.abc import Sequence
from itertools import chain, product

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ..app.pictures import COLOUR_MAP, COLOURS, SIZE, heat, marked, number, overlay, photograph, share_colours
from ..datasets.geometry import patch_boxes

ZOOM = 4.5  # how often what is enlarged of a mark would fit side by side into its picture
SHARES = (0.1, 0.25, 0.5, 1)  # that a legend of squares shows
EDGE = 12  # pixels of SIZE from a picture's edge to a line that is whole


def image_grid(
    pictures: Sequence, titles: Sequence[str], columns: int = 4, marks: Sequence[dict[str, np.ndarray]] = ()
) -> Figure:
    """Pictures (H, W, 3) in rows of `columns`, each with a title; marks: for each picture, places x y by name, the first six
    of which are numbered, and shown enlarged below the picture. A name has one number and colour in all pictures."""
    heights = (1, 0.9) if len(marks) else (1,)
    figure, axes = _panels(-(-len(pictures) // columns), columns, ratio=sum(heights) + 0.12, heights=heights)
    upper, lower = axes[:: len(heights)], axes[len(heights) - 1 :: len(heights)]
    for axis, picture, title in zip(upper.flat, pictures, titles, strict=False):
        axis.set_title(_wrapped(title, 20), fontsize=10)
        if not marks:
            axis.imshow(picture)
    names = list(dict.fromkeys(chain(*marks)))
    for axis, below, picture, points in zip(upper.flat, lower.flat, pictures, marks, strict=False):
        shown = sorted((names.index(name) + 1, name, point) for name, point in [*points.items()][:6])
        places = np.array([point for *_, point in shown]).reshape(-1, 2) * SIZE / np.shape(picture)[1::-1]
        colours = [COLOURS[(one - 1) % len(COLOURS)] for one, *_ in shown]
        plain = photograph(picture)
        number(numbered := plain.copy(), places, [one for one, *_ in shown], colours, SIZE / 16, places)
        axis.imshow(numbered)
        for at, ((one, name, _), place, colour) in enumerate(zip(shown, places, colours, strict=True)):
            x, y = np.clip(place - SIZE / ZOOM / 2, 0, SIZE - SIZE / ZOOM)
            zoom = below.inset_axes((0.34 * (at % 3), 0.6 - 0.5 * (at // 3), 0.32, 0.37))
            zoom.imshow(plain)
            zoom.set(xticks=[], yticks=[], xlim=(x, x + SIZE / ZOOM), ylim=(y + SIZE / ZOOM, y))
            zoom.set_xlabel(f"{one} {name}", fontsize=9, labelpad=2)
            zoom.spines[:].set(color=colour, linewidth=2)
    return figure


def saliency_grid(
    pictures: Sequence, maps: dict[str, np.ndarray], titles: Sequence[str], boxes: np.ndarray | None = None
) -> Figure:
    """Pictures, and below them a row of maps (B, H, W) per name, each in colours from 0 to its own largest values; the
    annotated boxes (B, 4) drawn where they are known."""
    rows = [[photograph(picture) for picture in pictures], *([heat(one) for one in row] for row in maps.values())]
    figure, axes = _grid(rows, titles, ("", *maps), size=1.3)
    for column, (x, y, width, height) in enumerate(() if boxes is None else boxes * SIZE / pictures[0].shape[0]):
        corners = np.clip([(x, y), (x + width, y + height)], EDGE, SIZE - EDGE)  # a line on the picture's edge would be lost
        for axis in axes[:, column]:
            axis.add_patch(box := _box((*corners[0], *(corners[1] - corners[0]))))
            box.set_path_effects([withStroke(linewidth=3, foreground="black")])
    # each map has its own range
    bar = figure.colorbar(ScalarMappable(cmap=COLOUR_MAP), ax=axes, location="bottom", shrink=0.4, aspect=30, ticks=[0, 1])
    bar.ax.set_xticklabels(["0", "largest 0.5% of a map"], fontsize=9)
    return figure


def patch_grids(picture: np.ndarray, patch_size: int, strides: Sequence[int]) -> Figure:
    """The same picture (H, W, 3) cut into patches, one panel per stride; two neighbouring patches are framed."""
    figure, axes = _panels(1, len(strides), size=3.6, ratio=1.06)
    for axis, stride in zip(axes[0], strides, strict=True):
        side = (picture.shape[0] - patch_size) // stride + 1
        axis.imshow(picture)
        boxes = [_box(box, linewidth=0.6) for box in patch_boxes(np.arange(side * side), side, patch_size, stride)]
        axis.add_collection(PatchCollection(boxes, facecolor="none", edgecolor="#0006", linewidth=1.6, zorder=0.5))
        for box in boxes:  # above the dark lines, which show them on white feathers, too
            axis.add_patch(box)
        middle = side * (side // 2) + side // 2
        for box, line in zip(patch_boxes([middle, middle + 1], side, patch_size, stride), ("-", "--"), strict=True):
            frame = {"fill": False, "capstyle": "butt"}
            axis.add_patch(Rectangle(box[:2] - 0.5, *box[2:], edgecolor="black", linewidth=4.5, **frame))
            axis.add_patch(Rectangle(box[:2] - 0.5, *box[2:], edgecolor=COLOURS[-1], linewidth=2, linestyle=line, **frame))
        axis.set_title(f"patch {patch_size}, stride {stride}:\n{side} × {side} = {side * side} patches", fontsize=12)
    return figure


def position_similarity(pos_embed: torch.Tensor, grid: tuple[int, int]) -> Figure:
    """Cosine similarity of some patches' position embeddings (1, 1+N, D) to all others, each a map on the grid."""
    patches = torch.nn.functional.normalize(pos_embed.detach()[0, 1:], dim=-1)
    maps = (patches @ patches.T).numpy().reshape(-1, *grid)
    chosen = np.linspace(0, grid[0] - 1, 4).round().astype(int)
    figure, axes = _panels(4, 4, size=1.4)
    for axis, (row, column) in zip(axes.flat, product(chosen, chosen), strict=True):
        image = axis.imshow(maps[row * grid[1] + column], cmap="viridis", vmin=-1, vmax=1)
        for colour, width in (("white", 4), ("black", 1.8)):
            axis.plot(column, row, "x", color=colour, markersize=7, markeredgewidth=width)
    label = "cosine similarity to the patch at the cross"
    figure.colorbar(image, ax=axes, label=label, location="bottom", shrink=0.6, aspect=30, ticks=[-1, 0, 1])
    return figure


def attention_maps(
    pictures: Sequence, maps: np.ndarray, titles: Sequence[str], rows: Sequence[str], patch_size: int, stride: int
) -> Figure:
    """R pictures, one per row, and over them maps (R, M, rows, cols) of patch weights, each scaled to its own range:
    the larger a weight, the larger the square on its patch."""
    shown = []
    for picture, row in zip(pictures, maps, strict=True):
        shown.append([photograph(picture), *(overlay(picture, weights, patch_size, stride) for weights in row)])
    figure, axes = _grid(shown, ("picture", *titles), rows, size=1.0)
    edged = {"marker": "s", "linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5}
    squares = [Line2D([], [], color=colour, **edged) for colour in share_colours(SHARES)]
    title = "a patch's weight: the share of the way from the map's smallest weight to its largest"
    below = {"loc": "outside lower center", "ncols": len(SHARES), "frameon": False, "title_fontsize": 9, "fontsize": 9}
    legend = figure.legend(squares, [f"{share:.0%}" for share in SHARES], title=title, **below)
    figure.draw_without_rendering()  # now a map's width is known, which gives the legend's squares their scale
    cell = 72 / figure.dpi * axes[0, 0].get_window_extent().width * stride / len(pictures[0])  # in points
    for square, share in zip(legend.get_lines(), SHARES, strict=True):
        square.set_markersize(cell * share**0.5)
    return figure


def selected_patches(
    pictures: Sequence,
    parts: np.ndarray,
    titles: Sequence[str],
    columns: int,
    patch_size: int,
    stride: int,
    points: Sequence = (),
) -> Figure:
    """Pictures with the patches (B, K) that were selected, numbered and coloured by head, and below each picture what is in
    them; columns: of the patch grid.

    points: for each picture, the places (M, 2) x y that should be hit, each a cross.
    """
    points = points if len(points) else [()] * len(pictures)
    across = min(4, len(pictures))
    figure, axes = _panels(-(-len(pictures) // across), across, ratio=1.45, heights=(1, 0.3))
    each = zip(axes[::2].flat, axes[1::2].flat, pictures, parts, titles, points, strict=False)
    for axis, below, picture, some, title, places in each:
        axis.imshow(marked(picture, some, columns, patch_size, stride, points=places))
        axis.set_title(_wrapped(title, 20), fontsize=10)
        for head, (x, y, width, height) in enumerate(patch_boxes(some, columns, patch_size, stride)):
            zoom = below.inset_axes((head / len(some), 0.1, 0.9 / len(some), 0.9))
            zoom.imshow(picture[y : y + height, x : x + width])
            zoom.set(xticks=[], yticks=[])
            zoom.set_xlabel(head + 1, fontsize=9, labelpad=2)
            zoom.spines[:].set(color=COLOURS[head % len(COLOURS)], linewidth=2)
    return figure


def _panels(rows, columns, size=1.9, ratio=1.0, heights=(1,)):
    """A figure of rows x columns panels without axes -> figure, axes (rows, columns); heights: of several in a row."""
    figure = Figure(figsize=(columns * size, rows * size * ratio), layout="compressed")  # no gaps between square panels
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be named with a $
        ratios = [*heights] * rows
        return figure, figure.subplots(len(ratios), columns, squeeze=False, subplot_kw=bare, height_ratios=ratios)


def _grid(pictures, titles, rows, size):
    """Rows of pictures, a title above each column and a name beside each row -> figure, axes (rows, columns)."""
    figure, axes = _panels(len(pictures), len(titles), size, ratio=1.03)
    for axis, picture in zip(axes.flat, chain(*pictures), strict=True):
        axis.imshow(picture)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(_wrapped(title, 15), fontsize=9)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(_wrapped(name, 12), fontsize=9)
    return figure, axes


def _wrapped(text, width):
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def _box(box, linewidth=1.5):
    # imshow puts a pixel's centre on its index, so the picture's edge is at -0.5
    return Rectangle(np.asarray(box[:2]) - 0.5, *box[2:], fill=False, edgecolor="white", linewidth=linewidth)
