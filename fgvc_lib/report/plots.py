"""Every figure of the report, pictures first. Each function returns a matplotlib Figure; `show` writes it to a file.

Tables and dictionaries are keyed by variants' keys; figures show their titles, in the colour of their family or rule.
"""

import io
import textwrap
from collections.abc import Sequence
from itertools import chain, product
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..app.pictures import COLOURS, SIZE, heat, marked, overlay, photograph
from ..config import active_experiment, figures_folder
from ..datasets.geometry import patch_boxes
from ..experiments.variants import known_variants, title_of
from ..files import whole_file, write_whole
from ..part_selection import FUSIONS
from .words import Words

if TYPE_CHECKING:
    import IPython

BLUE, ORANGE, GREEN, PINK, SKY, RED, TAN, ROSE, GREY, YELLOW, *_ = COLOURS
FAMILIES = {"cnn": ORANGE, "vit": BLUE, "psm": GREEN, "control": GREY}
# One colour and marker per fusion rule, and one each for the models without part selection, in all figures.
LOOKS = {
    "cnn": (ORANGE, "s"), "vit": (BLUE, "o"), "add": (PINK, "^"), "matmul": (RED, "<"), "lastlayer": (TAN, ">"),
    "mul": (GREEN, "D"), "rollout": (SKY, "v"), "lowrank": (ROSE, "P"), "maws": (YELLOW, "X"), "random": (GREY, "*"),
    "random_on_bird": ("black", "p"),
}  # fmt: skip
UNKNOWN = "black"  # what is no variant of the report
BESIDE = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend to the right of its axes


def show(figure: Figure, name: str, alt: str) -> "IPython.display.Image":
    """Write figures/NAME.png, and .svg of a figure that is all lines and text, and return the picture for the notebook,
    with `alt` as its text alternative."""
    from IPython.display import Image as Shown  # only notebooks need it

    pictures = any(axis.images for axis in figure.axes)
    data, folder = png(figure, bool(pictures and active_experiment().data)), figures_folder()
    write_whole(folder / f"{name}.png", data)
    if not pictures:  # they do not grow sharper
        with matplotlib.rc_context({"svg.hashsalt": name}), whole_file(folder / f"{name}.svg") as file:  # always the same
            figure.savefig(file, format="svg", metadata={"Date": None, "Title": alt})
    return Shown(data, alt=alt)


def png(figure: Figure, photographs: bool = False) -> bytes:
    """A figure as the bytes of a PNG file, with a palette of 256 colours, a third of the size, unless it shows photographs,
    whose colours tell species apart."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, dpi=90)
    image = Image.open(buffer).convert("RGB")
    (image if photographs else image.quantize()).save(small, "png", optimize=True)
    return small.getvalue()


def image_grid(pictures: Sequence, titles: Sequence[str], columns: int = 6, marks: Sequence = ()) -> Figure:
    """Pictures (H, W, 3) in rows of `columns`, each with a title; marks: for each, points (M, 2) x y to circle."""
    figure, axes = _panels(-(-len(pictures) // columns), columns, ratio=1.1)
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    for axis, points in zip(axes.flat, marks, strict=False):
        for colour, width in (("black", 3), ("white", 1.5)):
            axis.scatter(*np.reshape(points, (-1, 2)).T, s=420, facecolors="none", edgecolors=colour, linewidths=width)
    return figure


def saliency_grid(
    pictures: Sequence, maps: dict[str, np.ndarray], titles: Sequence[str], boxes: np.ndarray | None = None
) -> Figure:
    """Pictures, and below them one row of maps (B, H, W) per name; the annotated boxes (B, 4) drawn where they are known."""
    rows = [[photograph(picture) for picture in pictures], *([heat(one) for one in row] for row in maps.values())]
    figure, axes = _grid(rows, titles, ("", *maps), size=1.6)
    for column, box in enumerate(() if boxes is None else boxes):
        for axis in axes[:, column]:
            axis.add_patch(_box(box * SIZE / pictures[0].shape[0]))
    return figure


def patch_grids(picture: np.ndarray, patch_size: int, strides: Sequence[int]) -> Figure:
    """The same picture (H, W, 3) cut into patches, one panel per stride; two neighbouring patches stand out."""
    figure, axes = _panels(1, len(strides), size=3.6, ratio=1.06)
    for axis, stride in zip(axes[0], strides, strict=True):
        side = (picture.shape[0] - patch_size) // stride + 1
        axis.imshow(picture)
        for box in patch_boxes(np.arange(side * side), side, patch_size, stride):
            axis.add_patch(_box(box, linewidth=0.6))
        middle = side * (side // 2) + side // 2
        for box, colour in zip(patch_boxes([middle, middle + 1], side, patch_size, stride), (ORANGE, GREEN), strict=True):
            axis.add_patch(Rectangle(box[:2] - 0.5, *box[2:], facecolor=colour, alpha=0.45, edgecolor=colour, linewidth=2))
        axis.set_title(f"patch {patch_size}, stride {stride}: {side} × {side} = {side * side} patches", fontsize=10)
    return figure


def position_similarity(pos_embed: torch.Tensor, grid: tuple[int, int]) -> Figure:
    """Cosine similarity of some patches' position embeddings (1, 1+N, D) to all others, each a map on the grid."""
    patches = torch.nn.functional.normalize(pos_embed.detach()[0, 1:], dim=-1)
    maps = (patches @ patches.T).numpy().reshape(-1, *grid)
    chosen = np.linspace(0, grid[0] - 1, 4).round().astype(int)
    figure, axes = _panels(4, 4, size=1.3)
    for axis, (row, column) in zip(axes.flat, product(chosen, chosen), strict=True):
        image = axis.imshow(maps[row * grid[1] + column], cmap="viridis", vmin=-1, vmax=1)
        axis.plot(column, row, "x", color="white", markersize=6, markeredgewidth=2)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.6)
    return figure


def attention_maps(
    pictures: Sequence, maps: np.ndarray, titles: Sequence[str], rows: Sequence[str], patch_size: int, stride: int
) -> Figure:
    """R pictures, one per row, and over them maps (R, M, rows, cols) of patch weights, each scaled to its own maximum."""
    shown = []
    for picture, row in zip(pictures, maps, strict=True):
        shown.append([photograph(picture), *(overlay(picture, weights, patch_size, stride) for weights in row)])
    return _grid(shown, ("picture", *titles), rows, size=1.5)[0]


def selected_patches(
    pictures: Sequence, parts: np.ndarray, titles: Sequence[str], columns: int, patch_size: int, stride: int
) -> Figure:
    """Pictures with the patches (B, K) that were selected, numbered and coloured by head; columns: of the patch grid."""
    framed = [marked(picture, some, columns, patch_size, stride) for picture, some in zip(pictures, parts, strict=True)]
    return image_grid(framed, titles, min(6, len(pictures)))


def shares(values: dict[str, np.ndarray], xlabel: str) -> Figure:
    """Distributions of a share in 0..1 as histograms, one per name, with their means."""
    figure, (axis,) = _axes()
    for colour, (name, share) in zip(COLOURS, values.items(), strict=False):
        axis.hist(share, np.linspace(0, 1, 41), color=colour, alpha=0.6, label=f"{name}: mean {share.mean():.0%}")
        axis.axvline(share.mean(), color=colour, linewidth=2)
    axis.set(xlabel=xlabel, ylabel=f"test images (of {len(share)})", xlim=(0, 1))
    axis.legend(frameon=False)
    return figure


def learning_curves(metrics: dict[str, pd.DataFrame]) -> Figure:
    """Training loss and accuracy against the step, one line per variant's `Run.metrics`; dots: on the test images."""
    figure, axes = _axes(10, 3.8, columns=2)
    for key, style in _styles(metrics).items():
        frame, line = metrics[key], style | {"marker": ""}
        axes[0].plot(frame["step"], frame["loss"].rolling(3, 1).mean(), **line)
        axes[1].plot(frame["step"], frame["accuracy"].rolling(3, 1).mean(), label=title_of(key), **line)
        tested = frame.dropna(subset="test_accuracy")
        axes[1].plot(tested["step"], tested["test_accuracy"], "o", color=style["color"], markeredgecolor="white")
    axes[0].set(xlabel="step", ylabel="training loss (mean of 3 log lines)")
    axes[1].set(xlabel="step", ylabel="accuracy: line training, dots test", ylim=(0, None))
    axes[1].legend(**BESIDE)
    return figure


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """`tables.results_table` (one run per variant) or `summaries.summary` (several seeds) as bars with their intervals."""
    figure, (axis,) = _axes(8, 0.42 * len(table) + 0.9)
    table = table[::-1]
    names, colours = [title_of(key) for key in table.index], [_family_colour(key) for key in table.index]
    error = np.abs(table[["low", "high"]].to_numpy() - table[["accuracy"]].to_numpy()).T
    axis.barh(names, table["accuracy"], xerr=error, color=colours, capsize=3, height=0.65)
    for place, (accuracy, high) in enumerate(zip(table["accuracy"], table["high"], strict=True)):
        axis.text(high + 0.01, place, f"{accuracy:.1%}", va="center", fontsize=9)
    kind, seeds = ("bootstrap", int(table["seeds"].max())) if "seeds" in table else ("Wilson", 1)
    count = f"{int(table['images'].max()):,} test images, {seeds} seed{'s' * (seeds > 1)}"
    axis.set_xlabel(f"test accuracy, 95 % {kind} interval, {count}")
    axis.set_xlim(0, min(1.1, table["high"].max() + 0.12))
    axis.grid(axis="y", visible=False)
    return figure


def differences(table: pd.DataFrame, reference: str) -> Figure:
    """`summaries.summary`: how much more accurate each variant is than `reference`, with its interval, in points."""
    figure, (axis,) = _axes(8, 0.36 * len(table) + 0.9)
    table = table.drop(index=reference)[::-1]
    for place, (key, row) in enumerate(table.iterrows()):
        low, middle, high = 100 * row[["difference_low", "difference", "difference_high"]]
        colour = _family_colour(key)
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(middle, place, "o", color=colour, markersize=7)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(table)), [title_of(key) for key in table.index])
    counts = f"{int(table['seeds'].max())} seeds x {int(table['images'].max()):,} images"
    axis.set_xlabel(f"points more than {title_of(reference)}, 95 % interval, {counts}", fontsize=9)
    return figure


def robustness(table: pd.DataFrame) -> Figure:
    """Accuracy under attack: columns variant, epsilon (grey levels), accuracy, low, high; one line per variant."""
    figure, (axis,) = _axes(7.5, 3.8)
    for key, style in _styles(table["variant"].unique()).items():
        frame = table[table["variant"] == key]
        axis.plot(frame["epsilon"], frame["accuracy"], label=title_of(key), **style)
        axis.fill_between(frame["epsilon"], frame["low"], frame["high"], color=style["color"], alpha=0.18, linewidth=0)
    axis.set(xlabel="epsilon, grey levels of 255", ylabel="test accuracy, 95 % interval", ylim=(0, None))
    epsilons = sorted(set(table["epsilon"]))
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axis.legend(frameon=False)
    return figure


def hit_rates(table: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """Rates in 0..1: one group of bars per row, one bar per fusion rule (column), across each a line at its chance."""
    figure, (axis,) = _axes(8, 3.6)
    x, width = np.arange(len(table)), 0.8 / len(table.columns)
    for place, (rule, column) in enumerate(table.items()):
        middle = x + (place - (len(table.columns) - 1) / 2) * width
        axis.bar(middle, column, 0.92 * width, label=rule, color=LOOKS.get(rule, (UNKNOWN,))[0])
        label = "chance" if place == 0 else None
        axis.hlines(chance[rule], middle - width / 2, middle + width / 2, color="black", linewidth=2, label=label)
    axis.set(xticks=x, xticklabels=table.index, ylabel="share", ylim=(0, 1))
    axis.grid(axis="x", visible=False)
    axis.legend(**BESIDE)
    return figure


def patch_curves(points: pd.DataFrame) -> Figure:
    """`curve.means`: accuracy over the number of patches that the last layer sees, one line a rule; dashed: all patches;
    shaded: the 95 % interval of `mul`, about as wide as the others' (how rules differ is paired: `curve.areas`).
    """
    figure, (axis,) = _axes(8, 4.2)
    for rule, frame in points.groupby("rule", sort=False, observed=True):
        colour, marker = LOOKS[rule]
        name, chosen = Words().write("rule", rule), rule in FUSIONS
        style = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "-" if chosen else ":", "linewidth": 1.5}
        axis.plot(frame["patches"], frame["accuracy"], label=name, **style)
        if rule == "mul":
            axis.fill_between(frame["patches"], frame["low"], frame["high"], color=colour, alpha=0.1, linewidth=0)
    (patches,) = set(points.index.unique("k")[-1:])
    whole = points.loc[("mul", patches), "accuracy"]
    axis.axhline(whole, color=BLUE, linestyle="--", linewidth=1, label=f"all {patches} patches: {whole:.1%}", zorder=0)
    axis.set(xlabel="different patches that the last layer sees (mean)", ylabel="test accuracy", xscale="log")
    ticks = [tick for power in (1, 10, 100, 1_000) for tick in (power, 2 * power, 5 * power)]
    low, high = points["patches"].min(), points["patches"].max()
    axis.set_xticks(shown := [tick for tick in ticks if low / 1.3 <= tick <= high * 1.3], shown)
    axis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:.0%}" if np.ptp(axis.get_ylim()) > 0.05 else "{x:.1%}")
    axis.legend(**BESIDE)
    return figure


def cost(table: pd.DataFrame, floor: float) -> Figure:
    """The table of `bench.measure`: time of a training step as a ratio to the plain ViT's, with its 95 % interval, and peak
    memory; dashed: the textbook's way, dotted: more patches a head. floor: the share of the layers that see all tokens,
    drawn in.
    """
    figure, axes = _axes(10.5, 4, columns=2)
    for place, (row, frame) in enumerate(table[table["problem"] == ""].groupby("row", sort=False)):
        rule = row.removeprefix("dense ").partition(",")[0]
        colour, marker = LOOKS.get("vit" if rule == "plain" else rule, (UNKNOWN, "*"))
        line = "-" if rule == row else "--" if row.startswith("dense") else ":"
        style = {"color": colour, "marker": marker, "markersize": 5, "linestyle": line}
        x = frame["patches"] + 20 * (place - 5)  # side by side
        axes[0].plot(x, frame["train_ratio"], **style)
        axes[0].vlines(x, frame["train_low"], frame["train_high"], color=colour, linewidth=1)
        axes[1].plot(frame["patches"], frame["memory_mb"] / 1e3, label=row, **style)
    axes[0].axhline(floor, color="black", linestyle="--", linewidth=1)
    axes[0].text(table["patches"].mean(), floor - 0.01, f"floor {floor:.3f}", va="top", fontsize=8)
    sizes = table.drop_duplicates("patches")
    labels = [f"{patches:,}\n{size} px" for patches, size in zip(sizes["patches"], sizes["size"], strict=True)]
    for axis in axes:
        axis.set(xticks=sizes["patches"], xticklabels=labels, xlabel="patches", ylim=(0, None))
    axes[0].set(ylabel="time of a training step / plain ViT", yscale="log", ylim=(0.7, None))
    axes[0].set_yticks([0.7, 0.8, 0.9, 1, 1.5, 2, 3], [0.7, 0.8, 0.9, 1, 1.5, 2, 3])
    axes[0].minorticks_off()
    axes[1].set(ylabel="peak memory of a training step, GB")
    axes[1].legend(**BESIDE)
    return figure


def _panels(rows, columns, size=1.9, ratio=1.0):
    """A figure of rows x columns square panels without axes -> figure, axes (rows, columns)."""
    figure = Figure(figsize=(columns * size, rows * size * ratio), layout="constrained")
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be named with a $
        return figure, figure.subplots(rows, columns, squeeze=False, subplot_kw=bare)


def _grid(pictures, titles, rows, size):
    """Rows of pictures, a title above each column and a name beside each row -> figure, axes (rows, columns)."""
    figure, axes = _panels(len(pictures), len(titles), size, ratio=1.03)
    for axis, picture in zip(axes.flat, chain(*pictures), strict=True):
        axis.imshow(picture)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title("\n".join(textwrap.fill(line, 15) for line in title.splitlines()), fontsize=9)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(textwrap.fill(name, 14), fontsize=9)
    return figure, axes


def _axes(width=7.5, height=3.6, columns=1):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return figure, axes


def _box(box, linewidth=1.5):
    # imshow puts a pixel's centre on its index, so the picture's edge is at -0.5
    return Rectangle(np.asarray(box[:2]) - 0.5, *box[2:], fill=False, edgecolor="white", linewidth=linewidth)


def _family_colour(key):
    return FAMILIES[known_variants()[key].family] if key in known_variants() else UNKNOWN


def _styles(keys):
    """Colour, marker and line of each variant, by key; those of one rule differ in their lines."""
    styles, looks = {}, []
    for key in keys:
        variant = known_variants().get(key)
        look = variant and (variant.experiment.fusion or variant.family)
        colour, marker = LOOKS.get(look, (UNKNOWN, "o"))
        line = ("-", "--", ":", "-.")[looks.count(look) % 4]
        styles[key] = {"color": colour, "marker": marker, "linestyle": line}
        looks.append(look)
    return styles
