"""The report's charts of numbers. Each function returns a matplotlib Figure, as those of `panels` do; `show` writes it.

Tables and dictionaries are keyed by variants' keys; figures show their titles, in the colour of their family or rule.
"""

import io
import textwrap
from itertools import chain
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..app.pictures import COLOURS
from ..config import figures_folder
from ..experiments.bench import EVERY_MAP, MORE, NONE
from ..experiments.variants import REFERENCE, known_variants, title_of
from ..files import write_whole
from ..part_selection import FUSIONS
from .words import Words

if TYPE_CHECKING:
    import IPython

BLUE, ORANGE, GREEN, PINK, SKY, RED, TAN, _, GREY, *_ = COLOURS
PURPLE, OLIVE = "#7b3fa0", "#756500"  # where the palette has what is too light for a line on white
FAMILIES = {"cnn": (ORANGE, "s"), "vit": (BLUE, "o"), "psm": (GREEN, "D"), "control": (GREY, "*")}  # colour, marker
FAMILY_NAMES = {"cnn": "CNN", "vit": "ViT", "psm": "part selection", "control": "random patches"}
# One colour and marker per fusion rule, and one each for the models without part selection, in all figures; and dashes,
# which tell rules apart in grey, too.
LOOKS = {
    "cnn": (ORANGE, "s", "-"), "vit": (BLUE, "o", "-"), "mul": (GREEN, "D", "-"),
    "add": (PINK, "^", (0, (9, 1.5))), "matmul": (RED, "<", (0, (4, 1.2))), "lastlayer": (TAN, ">", (0, (7, 1.5, 1, 1.5))),
    "rollout": (SKY, "v", (0, (3, 1, 1, 1, 1, 1))), "lowrank": (PURPLE, "P", (0, (2, 1))),
    "maws": (OLIVE, "X", (0, (8, 1.5, 3, 1.5))), "random": (GREY, "*", ":"), "random_on_bird": ("black", "p", (0, (1, 3))),
}  # fmt: skip
FILLED = {"markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.6}  # the edge parts it from what lies below
HOLLOW = {"markersize": 9, "markeredgewidth": 1.3, "fillstyle": "none"}  # and larger: a filled one fits in
UNKNOWN = "black"  # what is no variant of the report
UNKNOWN_LOOK = (UNKNOWN, "o", "-")
DPI, QUALITY = 150, 80  # of pictures: two pixels for one of a common screen
EDGE = {"bbox_inches": "tight", "pad_inches": 0.08}
QUESTIONS = (
    "The course report's steps",
    "Other ways to fuse",
    "More patches a head",
    "Larger, longer",
    "Controls",
    "Others",
)
PERCENT = "{x:.0%}"  # how a share is written
WIDEST = 10  # points; a difference beyond would squeeze all others, and is a number at the edge
COST_ROWS = (NONE, "mul", MORE, "matmul", *EVERY_MAP)  # the others lie on top of these


def show(figure: Figure, name: str, alt: str) -> "IPython.display.Image | IPython.display.SVG":
    """Write a figure with pictures to figures/NAME.jpg, one of lines and text to figures/NAME.svg, and return it for the
    notebook, with `alt` as its text alternative."""
    from IPython.display import SVG  # only notebooks need it
    from IPython.display import Image as Shown

    if any(axis.images for axis in figure.axes):
        write_whole(figures_folder() / f"{name}.jpg", data := jpeg(figure))
        return Shown(data, alt=alt)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # always the same
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **EDGE)
    text = buffer.getvalue().replace("<svg ", f'<svg role="img" aria-label={quoteattr(alt)} ', 1)
    write_whole(figures_folder() / f"{name}.svg", text)
    return SVG(text)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, **EDGE)
    return buffer.getvalue()


def jpeg(figure: Figure) -> bytes:
    """A figure as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=DPI, pil_kwargs={"quality": QUALITY}, **EDGE)
    return buffer.getvalue()


def shares(values: dict[str, np.ndarray], xlabel: str) -> Figure:
    """Distributions of a share in 0..1 with their means at the top: the CNN's, filled in its colour, and in outline what it
    is held against."""
    figure, (axis,) = _axes(6.5, 3.6)
    looks = [{"color": ORANGE}, {"color": "black", "histtype": "step", "linestyle": "--", "linewidth": 1.5}]
    top, highest = axis.get_xaxis_transform(), max(share.mean() for share in values.values())
    for look, (name, share) in zip(looks, values.items(), strict=False):
        axis.hist(share, np.linspace(0, 1, 41), label=name, **look)
        mean, filled = share.mean(), "full" if "histtype" not in look else "none"
        axis.plot(mean, 1.03, "v", color=look["color"], markersize=9, fillstyle=filled, transform=top, clip_on=False)
        side = {"xytext": (8, 0), "ha": "left"} if mean == highest else {"xytext": (-8, 0), "ha": "right"}
        axis.annotate(f"mean {mean:.0%}", (mean, 1.03), xycoords=top, textcoords="offset points", va="center", **side)
    axis.set(xlabel=xlabel, ylabel=f"test images (of {len(share)})", xlim=(0, 1))
    axis.margins(y=0.1)
    axis.xaxis.set_major_formatter(PERCENT)
    axis.legend(frameon=False, loc="upper left")
    return figure


def learning_curves(metrics: dict[str, pd.DataFrame]) -> Figure:
    """Training loss, training accuracy and test accuracy against the step; in each a line per variant's `Run.metrics`."""
    figure, axes = _axes(8, 3.6, columns=3)
    titles = ["training loss, smoothed", "training accuracy, smoothed", "test accuracy"]
    if shared := len(metrics) < 3:  # the lines of more would lie on each other
        axes[2].sharey(axes[1])
    for place, (key, style) in enumerate(_styles(metrics).items()):
        frame = metrics[key]
        every = max(len(metrics), len(frame) // 4)  # few markers, and each line's at other steps
        line = style | {"markersize": style["markersize"] - 2, "markevery": (place * every // len(metrics), every)}
        axes[0].plot(frame["step"], frame["loss"].rolling(3, 1).mean(), **line)
        axes[1].plot(frame["step"], frame["accuracy"].rolling(3, 1).mean(), label=title_of(key), **line)
        tested = frame.dropna(subset="test_accuracy")
        axes[2].plot(tested["step"], tested["test_accuracy"], label=title_of(key), **style)
    if not shared:
        titles[2] += f" (axis from {axes[2].get_ylim()[0]:.0%})"
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="step", xlim=axes[0].get_xlim())
    for axis in axes[1:]:
        axis.yaxis.set_major_formatter(PERCENT)
    axes[1].set_ylim(0, None)
    axes[2].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=2))
    below = {"loc": "outside lower center", "ncols": min(4, len(metrics)), "frameon": False}
    figure.legend(*axes[2].get_legend_handles_labels(), **below, handlelength=3.5)  # long enough for dashes beside a marker
    return figure


def accuracies(tables: dict[str, pd.DataFrame]) -> Figure:
    """`summaries.summary` by name: accuracies with their intervals, a panel a table, variants grouped by question."""
    figure, axes, places = _by_question(tables)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        for key, row in table.iterrows():
            colour, marker = _family(key)
            axis.barh(places[key], 100 * row["accuracy"], color=colour, height=0.7)
            axis.plot(3, places[key], marker, color="white", markersize=6)  # told apart in grey, too
            axis.plot(100 * row[["low", "high"]], [places[key]] * 2, "|-", color="black", linewidth=1.5)  # no minus sign
            axis.text(100 * row["high"] + 3, places[key], f"{100 * row['accuracy']:.1f}", va="center", fontsize=9)
        axis.set(title=name, xlabel=f"test accuracy, %\n{_counts(table)}", xlim=(0, 118), xticks=range(0, 101, 20))
    return figure


def differences(tables: dict[str, pd.DataFrame], reference: str) -> Figure:
    """`summaries.summary` by name: how much more accurate each variant is than `reference`, with its interval, in points.

    A difference of more than WIDEST points is written at the edge, beside an arrow that points off the scale.
    """
    figure, axes, places = _by_question({name: table.drop(index=reference) for name, table in tables.items()})
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        for key, row in table.drop(index=reference).iterrows():
            low, middle, high = 100 * row[["difference_low", "difference", "difference_high"]]
            place, (colour, marker) = places[key], _family(key)
            if abs(middle) > WIDEST:
                side = np.sign(middle)
                words = f"{middle:+.0f} ({low:+.0f} to {high:+.0f})".replace("-", "−")
                axis.plot(side * (WIDEST + 1.3), place, "<" if side < 0 else ">", color=colour, markersize=7)
                axis.text(side * (WIDEST + 0.5), place, words, va="center", ha="left" if side < 0 else "right", fontsize=9)
                continue
            axis.plot([low, high], [place] * 2, color=colour, linewidth=2)
            axis.plot(middle, place, marker, color=colour, **FILLED | {"markersize": 9 if marker == "*" else 7})
        axis.axvline(0, color="black", linestyle=(0, (2, 3)), linewidth=1, zorder=1)  # an interval's end is seen on it
        edge = WIDEST + 2  # an interval may reach further than its middle
        axis.set(title=name, xlim=(-edge, edge), xticks=range(-WIDEST, WIDEST + 1, 5))
        axis.set_xlabel(f"percentage points above {title_of(reference)}\n{_counts(table)}")
    return figure


def _by_question(tables):
    """A panel a table, which share their lines: a line a variant, below the question that it answers; families in a legend.

    -> figure, axes, the place of each variant's line.
    """
    keys = list(dict.fromkeys(chain(*(table.index for table in tables.values()))))
    groups = {question: [key for key in keys if _question(key) == question] for question in QUESTIONS}
    places, heads, at = {}, {}, 0.0
    for question, members in groups.items():
        if members:
            heads[question] = at
            places |= {key: at + 1 + place for place, key in enumerate(members)}
            at += len(members) + 1.6
    figure, axes = _axes(3.2 * len(tables) + 1.8, 0.25 * at + 1.2, columns=len(tables), sharey=True)
    axes[0].set_yticks(list(places.values()), [title_of(key) for key in places], fontsize=10)
    axes[0].set_ylim(at - 0.8, -0.8)
    for axis, table in zip(axes, tables.values(), strict=True):
        axis.grid(axis="y", visible=False)
        axis.tick_params(left=False)
        for key in [key for key in places if key not in table.index]:
            where = {"xy": (0, places[key]), "xycoords": ("axes fraction", "data")}
            axis.annotate(
                "not run", **where, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9, color="dimgrey"
            )
    for question, place in heads.items():
        axes[0].annotate(
            question, (0, place), xycoords=("axes fraction", "data"), xytext=(-6, 0), textcoords="offset points",
            ha="right", va="center", fontsize=10, fontweight="bold",
        )  # fmt: skip
    found = {_family(key) for key in keys}
    shown = [
        Line2D([], [], color=look[0], marker=look[1], linestyle="", markersize=8, label=FAMILY_NAMES[name])
        for name, look in FAMILIES.items()
        if look in found
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    return figure, axes, places


def _question(key):
    """Which of QUESTIONS a variant answers."""
    if (variant := known_variants().get(key)) is None:
        return QUESTIONS[-1]
    for question, changes in (
        ("Larger, longer", {"larger_image", "larger_batch", "longer"}),
        ("More patches a head", {"top2", "top4", "top8"}),
        ("Controls", {"last_layer_fresh", "scratch"}),
    ):
        if changes & set(variant.changes):
            return question
    if variant.family == "control" or key == "efficientnet_lite0":
        return "Controls"
    return "Other ways to fuse" if variant.experiment.fusion in FUSIONS[4:] else "The course report's steps"


def _counts(table):
    seeds, images = int(table["seeds"].max()), int(table["images"].max())
    return f"95% interval, {seeds} seed{'s' * (seeds > 1)} × {images:,} images"


def robustness(table: pd.DataFrame) -> Figure:
    """Accuracy under attack: columns variant, epsilon (grey levels), accuracy, low, high; one line per variant."""
    figure, (axis,) = _axes(6.5, 3.8)
    epsilons = sorted(set(table["epsilon"]))
    styles = _styles(table["variant"].unique())
    for place, (key, style) in enumerate(styles.items()):
        frame = table[table["variant"] == key]
        x = frame["epsilon"].map(epsilons.index) + 0.2 * (place - (len(styles) - 1) / 2)  # side by side
        # a thin line hides no short interval
        axis.plot(x, frame["accuracy"], label=title_of(key), clip_on=False, **style | {"linewidth": 0.8})
        axis.plot([x + 0.07] * 2, frame[["low", "high"]].T, "_-", color=style["color"], linewidth=1.5)  # short ones are seen
    axis.set(xlabel="epsilon, grey levels of 255 (marks side by side)", ylim=(-0.02, None))
    axis.set_ylabel("test accuracy, right of it its 95% interval")
    axis.yaxis.set_major_formatter(PERCENT)
    axis.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axis.legend(frameon=False)
    return figure


def hit_rates(table: pd.DataFrame) -> Figure:
    """Columns measure, rule, rate, low, high, chance, all in 0..1: a panel a measure, in it each rule's rate with its
    interval, and a bar at its chance."""
    figure, axes = _axes(8, 3.8, columns=table["measure"].nunique(), sharey=True)
    for axis, (measure, frame) in zip(axes, table.groupby("measure", sort=False), strict=True):
        for place, (_, row) in enumerate(frame.iterrows()):
            colour, marker, _ = LOOKS.get(row["rule"], UNKNOWN_LOOK)
            axis.plot(place - 0.12, row["rate"], marker, color=colour, **FILLED)
            axis.plot([place + 0.18] * 2, row[["low", "high"]], "_-", color="black", linewidth=1)  # a short one is seen, too
            label = "chance" if place == 0 else None
            axis.hlines(row["chance"], place - 0.35, place + 0.35, color="0.55", linewidth=2.5, label=label, zorder=1)
        axis.set_xticks(range(len(frame)), frame["rule"], rotation=40, ha="right", rotation_mode="anchor")
        axis.set_title(textwrap.fill(measure, 40), fontsize=11)
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(PERCENT)
    axes[0].set_ylabel("share, right of it its 95% interval")
    axes[0].legend(frameon=False)
    return figure


def patch_curves(points: pd.DataFrame) -> Figure:
    """`curve.means`: accuracy over the number of patches that the last layer sees, a panel a rule with its 95% interval; in
    each also random patches, and all patches, dashed. How rules differ is paired: `curve.areas`."""
    curves = {rule: frame for rule, frame in points.groupby("rule", sort=False, observed=True) if rule != "random"}
    rows = -(-len(curves) // 4)
    figure, axes = _axes(9, 2.4 * rows + 0.8, rows=rows, columns=-(-len(curves) // rows), sharey=True)
    (patches,) = points.index.unique("k")[-1:]
    whole = points["accuracy"].xs(patches, level="k").iloc[0]
    low, high = points["patches"].min() / 1.3, points["patches"].max() * 1.3
    ticks = [tick for power in (1, 10, 100, 1_000) for tick in (power, 2 * power, 5 * power) if low <= tick <= high]
    for axis, (rule, frame) in zip(axes, curves.items(), strict=False):
        axis.axhline(whole, color=BLUE, linestyle="--", linewidth=1, label=f"all {patches} patches: {whole:.1%}")
        colour, marker, _ = LOOKS[rule]
        if "random" in points.index:  # above the rule's line, below its marks; dots in its own grey would be faint
            random, label = points.loc["random"], f"{Words().write('rule', 'random')}, the same in all panels"
            axis.plot(random["patches"], random["accuracy"], ":", color="0.35", zorder=2.5, label=label)
        axis.plot(frame["patches"], frame["accuracy"], color=colour)
        marks = frame.iloc[:-1]  # the last, of all that there are, would hide the one before
        axis.plot(marks["patches"], marks["accuracy"], marker, color=colour, zorder=3, **FILLED | {"markersize": 6})
        band = {"facecolor": (colour, 0.12), "edgecolor": (colour, 0.7), "linewidth": 0.7}
        axis.fill_between(frame["patches"], frame["low"], frame["high"], **band)
        axis.set(title=Words().write("rule", rule), xscale="log", xlim=(low, high))
        axis.set_xticks(ticks, ticks)
        axis.minorticks_off()
    for axis in axes[len(curves) :]:
        axis.axis("off")
    axes[0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes[0].yaxis.set_major_formatter(PERCENT if np.ptp(axes[0].get_ylim()) > 0.05 else "{x:.1%}")
    figure.supxlabel("different patches that the last layer sees (mean)", fontsize="medium")
    figure.supylabel(f"test accuracy\n{_counts(points)}", fontsize="medium", multialignment="center")
    above = {"loc": "outside upper center", "ncols": 2, "frameon": False, "handlelength": 3.5}
    figure.legend(*axes[0].get_legend_handles_labels(), **above)
    return figure


def cost(table: pd.DataFrame, floor: float) -> Figure:
    """The rows of `bench.measure` in COST_ROWS: time of a training step, with its interval, and peak memory, as ratios to
    those without PSM; hollow: every map kept. floor: the share of the layers that see all tokens, a step without the last of
    L layers; what is measured may lie below it, by noise.
    """
    figure, axes = _axes(7, 7.4, rows=2)
    table = table[(table["problem"] == "") & table["row"].isin(COST_ROWS)]
    sizes, rows = table.drop_duplicates("patches"), table.groupby("row", sort=False)
    least = table["patches"].map(table[table["row"] == NONE].set_index("patches")["memory_mb"])
    for place, (row, frame) in enumerate(rows):
        rule = row.partition(",")[0]
        colour, marker, _ = LOOKS.get("vit" if rule == NONE else rule, UNKNOWN_LOOK)
        style = {"color": colour, "marker": "X" if row == MORE else marker, "linestyle": "", "label": row}
        style |= HOLLOW if row in EVERY_MAP else FILLED
        x = frame["patches"].map([*sizes["patches"]].index) + 0.14 * (place - (rows.ngroups - 1) / 2)
        axes[0].plot(x, frame["train_ratio"], **style)
        if row != NONE:
            axes[0].plot([x + 0.06] * 2, frame[["train_low", "train_high"]].T, "_-", color=colour, linewidth=1.5)
        axes[1].plot(x, frame["memory_mb"] / least[frame.index], **style)
    axes[0].axhline(floor, color="black", linestyle=(0, (1, 2)), linewidth=1.5, label=f"(L − 1)/L = {floor:.3f}", zorder=1)
    labels = [f"{patches:,}\n{size} px" for patches, size in zip(sizes["patches"], sizes["size"], strict=True)]
    for axis in axes:
        axis.set(yscale="log", xlabel="patches (marks side by side)", ylim=(0.7, None))
        axis.set_xticks(range(len(sizes)), labels)
        axis.set_xlim(-0.5, len(sizes) - 0.5)
        axis.set_yticks(ticks := [0.7, 0.8, 0.9, 1, 1.5, 2, 3], ticks)
        axis.minorticks_off()
    axes[0].set(ylabel="time of a training step / no PSM,\nright of it its 95% interval")
    axes[1].set(ylabel="peak memory of a training step / no PSM")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _axes(width, height, columns=1, rows=1, sharey=False):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return figure, axes


def _family(key):
    return FAMILIES[known_variants()[key].family] if key in known_variants() else (UNKNOWN, "o")


def _styles(keys):
    """Colour, marker and line of each variant, by key; those of one rule differ in their lines, the REFERENCE is thicker."""
    styles, looks = {}, []
    for key in keys:
        variant = known_variants().get(key)
        look = variant and (variant.experiment.fusion or variant.family)
        colour, marker, dashes = LOOKS.get(look, UNKNOWN_LOOK)
        line = (dashes, "--", ":", "-.")[looks.count(look) % 4]
        styles[key] = {"color": colour, "marker": marker, "linestyle": line, "linewidth": 2.5 if key == REFERENCE else 1.5}
        styles[key] |= HOLLOW if look in looks or key == REFERENCE else FILLED
        looks.append(look)
    return styles
