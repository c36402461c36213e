"""Every figure of the report: each function returns a matplotlib Figure, `show` keeps it as a file."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as Picture

from ..config import figures_folder
from ..datasets.geometry import patch_boxes
from ..files import write_whole

# seaborn's palette for the colour-blind, its two oranges apart
COLOURS = [sns.color_palette("colorblind").as_hex()[place] for place in (0, 1, 2, 4, 9, 3, 5, 6, 7, 8)]
# A row of the report's table looks the same in every figure: colour and marker.
STYLES = {
    "ResNet-18": (1, "s"), "ViT": (4, "v"), "ViT, overlap": (0, "o"), "PSM add": (3, "^"), "PSM matmul": (5, "<"),
    "PSM lastlayer": (6, ">"), "PSM mul": (2, "D"), "PSM mul, contrastive": (7, "P"), "PSM mul, flatten": (8, "X"),
}  # fmt: skip
HEAT = "magma"  # perceptually even, readable in grey and by the colour-blind
DPI = 90


def show(figure: Figure, name: str, alt: str) -> Image:
    """Write figures/NAME.png, and .svg of a figure that is all lines and text, and return the picture for the notebook,
    with `alt` as its text alternative."""
    data, drawing = png(figure), io.BytesIO()
    write_whole(figures_folder() / f"{name}.png", data)
    if not any(axis.images for axis in figure.axes):  # photographs do not grow sharper
        with matplotlib.rc_context({"svg.hashsalt": name}):  # the same drawing, the same file
            figure.savefig(drawing, format="svg", metadata={"Date": None, "Title": alt})
        write_whole(figures_folder() / f"{name}.svg", drawing.getvalue())
    return Image(data, alt=alt)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file with a palette of 256 colours, a third of the size without one."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    Picture.open(buffer).convert("RGB").quantize().save(small, "png", optimize=True)
    return small.getvalue()


def to_picture(image: torch.Tensor, normalisation) -> np.ndarray:
    """A normalised (3, H, W) tensor -> (H, W, 3) floats in 0..1; `normalisation` as `datasets.normalisation` gives it."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in normalisation)
    return (image * deviation + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def _panels(rows, columns, size=1.9, ratio=1.0, **options):
    """A figure of rows x columns square panels without axes -> figure, axes (rows, columns)."""
    figure = Figure(figsize=(columns * size, rows * size * ratio), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _axes(width=7.5, height=3.6, columns=1):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return (figure, axes[0]) if columns == 1 else (figure, axes)


def image_grid(pictures: Sequence, titles: Sequence[str], columns: int = 6, marks: Sequence = ()) -> Figure:
    """Pictures (H, W, 3) in rows of `columns`, each with a title; marks: for each, points (M, 2) x y to circle."""
    figure, axes = _panels(-(-len(pictures) // columns), columns, ratio=1.1)
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    for axis, points in zip(axes.flat, marks, strict=False):
        axis.scatter(*np.reshape(points, (-1, 2)).T, s=420, facecolors="none", edgecolors="black", linewidths=3)
        axis.scatter(*np.reshape(points, (-1, 2)).T, s=420, facecolors="none", edgecolors="white", linewidths=1.5)
    return figure


def split_counts(counts: pd.DataFrame) -> Figure:
    """Images a class: a row a class, columns train and test."""
    figure, axis = _axes()
    bins = np.arange(counts.to_numpy().min() - 0.5, counts.to_numpy().max() + 1.5)
    for colour, (name, column) in zip(COLOURS, counts.items(), strict=False):
        axis.hist(column, bins, color=colour, alpha=0.75, label=f"{name}: {column.sum():,} images")
    axis.set(xlabel="images of a class", ylabel=f"classes (of {len(counts)})")
    axis.legend(frameon=False)
    return figure


def saliency_grid(
    pictures: Sequence, maps: dict[str, np.ndarray], titles: Sequence[str], boxes: np.ndarray | None = None
) -> Figure:
    """Pictures, and below them a row of maps (B, H, W) a name; the annotated boxes (B, 4) drawn where they are known."""
    figure, axes = _panels(1 + len(maps), len(pictures), size=1.6)
    for axis, name in zip(axes[:, 0], ("", *maps), strict=True):
        axis.set_ylabel(textwrap.fill(name, 14), fontsize=9)
    for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        axes[0, column].imshow(picture)
        axes[0, column].set_title("\n".join(textwrap.fill(line, 15) for line in title.splitlines()), fontsize=9)
        for axis, heat in zip(axes[1:, column], maps.values(), strict=True):
            axis.imshow(heat[column], cmap=HEAT, vmax=np.quantile(heat[column], 0.995))
        for axis in axes[:, column] if boxes is not None else ():
            axis.add_patch(_box(boxes[column], "white"))
    return figure


def shares(values: dict[str, np.ndarray], xlabel: str) -> Figure:
    """Distributions of a share in 0..1 as histograms, one a name, with their means."""
    figure, axis = _axes()
    for colour, (name, share) in zip(COLOURS, values.items(), strict=False):
        axis.hist(share, np.linspace(0, 1, 41), color=colour, alpha=0.6, label=f"{name}: mean {share.mean():.0%}")
        axis.axvline(share.mean(), color=colour, linewidth=2)
    axis.set(xlabel=xlabel, ylabel=f"test images (of {len(share)})", xlim=(0, 1))
    axis.legend(frameon=False)
    return figure


def patch_grids(picture: np.ndarray, patch_size: int, strides: Sequence[int]) -> Figure:
    """The same picture cut into patches, one panel a stride; two neighbouring patches stand out."""
    figure, axes = _panels(1, len(strides), size=3.6, ratio=1.06)
    for axis, stride in zip(axes[0], strides, strict=True):
        side = (picture.shape[0] - patch_size) // stride + 1
        axis.imshow(picture)
        for box in patch_boxes(np.arange(side * side), side, patch_size, stride):
            axis.add_patch(_box(box, "white", 0.6))
        middle = side * (side // 2) + side // 2
        for box, colour in zip(patch_boxes([middle, middle + 1], side, patch_size, stride), COLOURS[1:3], strict=True):
            axis.add_patch(Rectangle(box[:2] - 0.5, *box[2:], facecolor=colour, alpha=0.45, edgecolor=colour, linewidth=2))
        axis.set_title(f"patch {patch_size}, stride {stride}: {side} × {side} = {side * side} patches", fontsize=10)
    return figure


def position_similarity(pos_embed: torch.Tensor, grid: tuple[int, int]) -> Figure:
    """Cosine similarity of some patches' position embeddings (1, 1+N, D) to all others, each a map on the grid."""
    patches = torch.nn.functional.normalize(pos_embed.detach()[0, 1:], dim=-1)
    maps = (patches @ patches.T).numpy().reshape(-1, *grid)
    chosen = np.linspace(0, grid[0] - 1, 4).round().astype(int)
    figure, axes = _panels(4, 4, size=1.3)
    for axis, (row, column) in zip(axes.flat, ((r, c) for r in chosen for c in chosen), strict=True):
        image = axis.imshow(maps[row * grid[1] + column], cmap="viridis", vmin=-1, vmax=1)
        axis.plot(column, row, "x", color="white", markersize=6, markeredgewidth=2)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.6)
    return figure


def learning_curves(metrics: dict[str, pd.DataFrame]) -> Figure:
    """Training loss and accuracy against the step, one line a run; dots: accuracy on the test images."""
    figure, axes = _axes(10, 3.8, columns=2)
    for name, frame in metrics.items():
        colour = _style(name)["color"]
        axes[0].plot(frame["step"], frame["loss"].rolling(3, 1).mean(), color=colour, label=name)
        axes[1].plot(frame["step"], frame["accuracy"].rolling(3, 1).mean(), color=colour, label=name)
        tested = frame.dropna(subset="test_accuracy")
        axes[1].plot(tested["step"], tested["test_accuracy"], "o", color=colour, markeredgecolor="white")
    axes[0].set(xlabel="step", ylabel="training loss (mean of 3 log lines)")
    axes[1].set(xlabel="step", ylabel="accuracy: line training, dots test", ylim=(0, None))
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def attention_maps(
    pictures: Sequence, maps: np.ndarray, titles: Sequence[str], rows: Sequence[str], patch_size: int, stride: int
) -> Figure:
    """R pictures, a row each, and over them maps (R, M, rows, cols) of patch weights, each scaled to its own maximum."""
    figure, axes = _panels(maps.shape[0], maps.shape[1] + 1, size=1.5, ratio=1.03)
    for row, row_axes in enumerate(axes):
        row_axes[0].set_ylabel(textwrap.fill(rows[row], 14), fontsize=9)
        for axis in row_axes:
            axis.imshow(pictures[row])
        for heat, axis in zip(maps[row], row_axes[1:], strict=True):
            _overlay(axis, heat, patch_size, stride)
    for axis, title in zip(axes[0], ("picture", *titles), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def selected_patches(
    pictures, parts: np.ndarray, titles: Sequence[str], columns: int, patch_size: int, stride: int
) -> Figure:
    """Pictures with the patches (B, K) that were selected, numbered and coloured by head, side by side."""
    figure, axes = _panels(-(-len(pictures) // 6), min(6, len(pictures)), ratio=1.1)
    for axis, picture, chosen, title in zip(axes.flat, pictures, parts, titles, strict=False):
        axis.imshow(picture)
        _number(axis, chosen, columns, patch_size, stride)
        axis.set_title(title, fontsize=9)
    return figure


def look(picture: np.ndarray, heat: np.ndarray, parts: np.ndarray, patch_size: int, stride: int, title: str) -> Figure:
    """One picture with its selected patches (K,) next to one map (rows, cols): the picture behind the controls."""
    figure, axes = _panels(1, 2, size=3.2, ratio=1.1)
    for axis in axes[0]:
        axis.imshow(picture)
    _number(axes[0, 0], parts, heat.shape[1], patch_size, stride)
    _overlay(axes[0, 1], heat, patch_size, stride)
    axes[0, 0].set_title("selected patches, by head", fontsize=10)
    axes[0, 1].set_title(title, fontsize=10)
    return figure


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """`results.results_table` (one run a row) or `results.summary` (several seeds) as bars with their intervals."""
    figure, axis = _axes(8, 0.42 * len(table) + 0.9)
    table = table[::-1]
    error = np.abs(table[["low", "high"]].to_numpy() - table[["accuracy"]].to_numpy()).T
    axis.barh(
        table.index, table["accuracy"], xerr=error, color=[_family(name) for name in table.index], capsize=3, height=0.65
    )
    for place, (accuracy, high) in enumerate(zip(table["accuracy"], table["high"], strict=True)):
        axis.text(high + 0.01, place, f"{accuracy:.1%}", va="center", fontsize=9)
    kind, seeds = ("bootstrap", int(table["seeds"].max())) if "seeds" in table else ("Wilson", 1)
    count = f"{int(table['images'].max()):,} test images, {seeds} seed{'s' * (seeds > 1)}"
    right = min(1.1, table["high"].max() + 0.12)
    axis.set(xlabel=f"test accuracy, 95 % {kind} interval, {count}", xlim=(0, right))
    axis.grid(axis="y", visible=False)
    return figure


def differences(table: pd.DataFrame, reference: str) -> Figure:
    """`results.summary`: each row's difference in accuracy to the row `reference` with its interval, in points."""
    figure, axis = _axes(8, 0.36 * len(table) + 0.9)
    table = table.drop(index=reference)[::-1]
    for place, (name, row) in enumerate(table.iterrows()):
        low, middle, high = (100 * row[key] for key in ("difference_low", "difference", "difference_high"))
        clear = row["p"] < 0.05
        style = {
            "color": _family(name),
            "marker": "o",
            "markersize": 7,
            "markerfacecolor": _family(name) if clear else "white",
        }
        axis.plot([low, high], [place, place], color=_family(name), linewidth=2)
        axis.plot(middle, place, **style)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(table)), table.index)
    seeds, images = int(table["seeds"].max()), int(table["images"].max())
    axis.set(
        xlabel=f"points more than {reference}, 95 % interval, {seeds} seeds x {images:,} images; filled: p < 0.05 (Holm)"
    )
    axis.xaxis.label.set_fontsize(9)
    return figure


def robustness(table: pd.DataFrame) -> Figure:
    """Accuracy under attack: columns model, strength (grey levels), accuracy, low, high; a line a model."""
    figure, axis = _axes(7.5, 3.8)
    for name, frame in table.groupby("model", sort=False):
        axis.plot(frame["strength"], frame["accuracy"], label=name, **_style(name))
        axis.fill_between(
            frame["strength"], frame["low"], frame["high"], color=_style(name)["color"], alpha=0.18, linewidth=0
        )
    axis.set(xlabel="strength of the attack, grey levels of 255", ylabel="test accuracy, 95 % interval", ylim=(0, None))
    axis.set_xticks(sorted(set(table["strength"])))
    axis.legend(frameon=False)
    return figure


def _style(name):
    place, marker = STYLES.get(name, (9, "*"))
    return {"color": COLOURS[place], "marker": marker}


def _family(name):
    """One colour a kind of model, for figures whose rows are named beside them."""
    return COLOURS[1] if "Net" in name else COLOURS[2] if "PSM" in name else COLOURS[0]


def time_against_accuracy(table: pd.DataFrame) -> Figure:
    """Minutes of training against test accuracy, one point a row of `results.results_table`, with its interval."""
    figure, axis = _axes(8, 4.2)
    for name, row in table.iterrows():
        error = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
        style = _style(name) | {"linestyle": "none", "capsize": 2, "elinewidth": 1, "label": name}
        axis.errorbar(row["minutes"], row["accuracy"], error, **style)
    axis.set(ylabel=f"test accuracy, 95 % interval, {int(table['images'].max()):,} images", ylim=(0, None))
    axis.set(xlabel="training time, minutes, one run each", xscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def hit_rates(table: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """Rates in 0..1: a group of bars a row, a bar a column, and across each bar a black line at its chance."""
    figure, axis = _axes(8, 3.6)
    x, width = np.arange(len(table)), 0.8 / len(table.columns)
    for place, (name, column) in enumerate(table.items()):
        middle = x + (place - (len(table.columns) - 1) / 2) * width
        axis.bar(middle, column, 0.92 * width, label=name, color=COLOURS[place])
        axis.hlines(
            chance[name], middle - width / 2, middle + width / 2, color="black", linewidth=2, label="chance" * (place == 0)
        )
    axis.set(ylabel="share", ylim=(0, 1))
    axis.set_xticks(x, table.index)
    axis.grid(axis="x", visible=False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cost(table: pd.DataFrame, floor: float) -> Figure:
    """`bench.bench`'s table: time of a training step as a ratio to the plain ViT's, with its 95 % interval, and peak memory.

    floor: the share of the layers that see all tokens, drawn in.
    """
    figure, axes = _axes(10.5, 4, columns=2)
    for place, (row, frame) in enumerate(table[table["problem"] == ""].groupby("row", sort=False)):
        style = {"color": COLOURS[place % len(COLOURS)], "marker": "osD^v<>Ph"[place % 9], "markersize": 5}
        x = frame["patches"] + 20 * (place - 4.5)  # side by side
        axes[0].plot(x, frame["train_ratio"], **style)
        axes[0].vlines(x, frame["train_low"], frame["train_high"], color=style["color"], linewidth=1)
        axes[1].plot(frame["patches"], frame["memory_mb"] / 1e3, label=row, **style)
    axes[0].axhline(floor, color="black", linestyle="--", linewidth=1)
    axes[0].text(table["patches"].mean(), floor - 0.01, f"floor {floor:.3f}", va="top", fontsize=8)
    sizes = table.drop_duplicates("patches")
    for axis in axes:
        axis.set_xticks(
            sizes["patches"], [f"{n:,}\n{size} px" for n, size in zip(sizes["patches"], sizes["size"], strict=True)]
        )
        axis.set(xlabel="patches", ylim=(0, None))
    axes[0].set(ylabel="time of a training step / plain ViT", yscale="log", ylim=(0.7, None))
    axes[0].set_yticks([0.7, 0.8, 0.9, 1, 1.5, 2, 3], [0.7, 0.8, 0.9, 1, 1.5, 2, 3], minor=False)
    axes[0].minorticks_off()
    axes[1].set(ylabel="peak memory of a training step, GB")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _box(box, colour, linewidth=1.5):
    # imshow puts a pixel's centre on its index, so the picture's edge is at -0.5
    return Rectangle(np.asarray(box[:2]) - 0.5, *box[2:], fill=False, edgecolor=colour, linewidth=linewidth)


def _overlay(axis, heat, patch_size, stride):
    rows, columns = heat.shape
    margin = (patch_size - stride) / 2 - 0.5  # each value is drawn on the stride-wide cell in its patch's middle
    extent = (margin, margin + columns * stride, margin + rows * stride, margin)
    limits = axis.get_xlim(), axis.get_ylim()
    axis.imshow(heat, cmap=HEAT, alpha=0.65, extent=extent, interpolation="nearest")
    axis.set(xlim=limits[0], ylim=limits[1])


def _number(axis, parts, columns, patch_size, stride):
    taken = {}
    for head, box in enumerate(patch_boxes(parts, columns, patch_size, stride)):
        axis.add_patch(_box(box, COLOURS[head % len(COLOURS)], 2))
        shift = taken[tuple(box)] = taken.get(tuple(box), -1) + 1  # heads that chose one patch: side by side
        axis.text(
            box[0] + 1 + 5 * shift, box[1] + 1, str(head + 1), color="white", fontsize=7, va="top",
            bbox={"facecolor": COLOURS[head % len(COLOURS)], "pad": 0.6, "linewidth": 0},
        )  # fmt: skip
