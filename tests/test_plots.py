import io
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fgvc_lib.app import pictures
from fgvc_lib.experiments.variants import known_variants
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.report import panels, plots
from fgvc_lib.training import fit

METRICS = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.1, 0.5], "test_accuracy": [np.nan, 0.4]})
RNG = np.random.default_rng(0)


def lines(axis):
    """Label -> (colour, line style) of what the legend names."""
    handles, labels = axis.get_legend_handles_labels()
    return {label: (to_hex(line.get_color()), line.get_linestyle()) for line, label in zip(handles, labels, strict=True)}


def bench(rows):
    sizes = [{"size": size, "patches": (size // 16) ** 2} for size in (224, 448)]
    numbers = {"problem": "", "train_ratio": 0.9, "train_low": 0.8, "train_high": 1.0, "memory_mb": 900.0}
    return pd.DataFrame([{**size, "row": row, **numbers} for size in sizes for row in rows])


def test_importing_the_report_is_cheap():
    code = "import sys, fgvc_lib.report; assert not {'matplotlib', 'seaborn', 'IPython', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_plots_loads_no_ipython():
    code = "import sys, fgvc_lib.report.plots; assert 'IPython' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_titles_are_shown_as_they_are():
    picture, values = np.zeros((9, 9, 3)), np.zeros((1, 9, 9))
    assert plots.png(panels.image_grid([picture], ["$fin$ch"]))
    assert plots.png(panels.saliency_grid([picture], {"a_$": values}, ["x$_^$"]))


def test_a_rule_has_one_colour_in_every_figure():
    keys = [f"psm_{rule}" for rule in FUSIONS]
    curves = lines(plots.learning_curves(dict.fromkeys(keys, METRICS)).axes[1])
    costs = plots.cost(bench(["no PSM", *FUSIONS, "mul, every map kept"]), 0.9).axes[1]
    cost = lines(costs)
    numbers = {"rate": 0.5, "low": 0.4, "high": 0.6, "chance": 0.3}
    rates = pd.DataFrame([{"measure": measure, "rule": rule, **numbers} for measure in ("one", "two") for rule in FUSIONS])
    panels = plots.hit_rates(rates).axes
    points = [line for line in panels[0].lines if line.get_marker() not in ("", "None", None, "_")]  # _: an interval's ends
    assert [text.get_text() for text in panels[1].get_xticklabels()] == [*FUSIONS] and panels[1].get_title() == "two"
    attacks = pd.DataFrame({"variant": keys, "epsilon": 1.0, "accuracy": 0.5, "low": 0.4, "high": 0.6})
    attacked = lines(plots.robustness(attacks).axes[0])
    for rule, point in zip(FUSIONS, points, strict=True):
        assert curves[f"PSM {rule}"][0] == attacked[f"PSM {rule}"][0] == to_hex(point.get_color())
        assert cost.get(rule, curves[f"PSM {rule}"])[0] == curves[f"PSM {rule}"][0]
    assert len({colour for colour, _ in curves.values()}) == len(FUSIONS)
    assert list(cost) == ["no PSM", "matmul", "mul", "mul, every map kept"]  # few marks: the other rules lie on top of them
    filled = {line.get_label(): line.get_fillstyle() for line in costs.lines}
    assert cost["mul, every map kept"] == cost["mul"] and filled["mul, every map kept"] == "none" != filled["mul"]
    assert cost["no PSM"][0] not in (cost["mul"][0], cost["matmul"][0])


def test_variants_of_one_rule_differ_in_their_lines():
    figure = plots.learning_curves(dict.fromkeys(["vit", "vit_overlap", "psm_mul", "psm_mul_flatten", "mine"], METRICS))
    found = lines(figure.axes[1])
    assert lines(figure.axes[2]) == found  # on the test images they can be told apart, too
    assert found["ViT"][0] == found["ViT, overlap"][0] and found["PSM mul"][0] == found["PSM mul, flatten"][0]
    assert len(set(found.values())) == 5 and found["mine"][0] == "#000000"


def test_the_test_accuracy_has_the_scale_of_the_training_or_says_where_its_own_starts():
    two, many = (plots.learning_curves(dict.fromkeys(["vit", "vit_overlap", "psm_mul"][:n], METRICS)).axes for n in (2, 3))
    assert two[1].get_ylim() == two[2].get_ylim() and two[1].get_ylim()[0] == 0 and two[2].get_title() == "test accuracy"
    low = many[2].get_ylim()[0]
    assert 0.3 < low < 0.4 and many[2].get_title() == f"test accuracy (axis from {low:.0%})"


def test_models_are_grouped_by_what_they_ask_in_the_colours_of_their_families():
    keys = ["efficientnet_lite0", "vit", "psm_mul", "psm_mul_top2", "psm_random", "mine"]
    numbers = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "images": 10, "seeds": 5}
    table = pd.DataFrame(numbers, index=keys).assign(difference=0.1, difference_low=0.0, difference_high=0.2)
    figure = plots.accuracies({"photographs": table, "birds": table.iloc[:3]})
    assert [axis.get_title() for axis in figure.axes] == ["photographs", "birds"]
    assert [len(axis.patches) for axis in figure.axes] == [6, 3]
    assert [sum(text.get_text() == "not run" for text in axis.texts) for axis in figure.axes] == [0, 3]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["ViT", "PSM mul", "PSM mul, 2 patches a head", "EfficientNet-Lite0", "PSM random", "mine"]
    heads = [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert heads == ["The course report's steps", "More patches a head", "Controls", "Others"]
    families = [text.get_text() for text in figure.legends[0].get_texts()]
    assert families == ["CNN", "ViT", "part selection", "random patches"]
    for bar, key in zip(figure.axes[0].patches, keys, strict=True):
        known = known_variants().get(key)
        assert to_hex(bar.get_facecolor()) == (plots.FAMILIES[known.family][0] if known else "#000000")
    shapes = {line.get_marker() for line in figure.axes[0].lines if line.get_color() == "white"}
    assert len(shapes) == len(plots.FAMILIES)  # families are told apart in grey, too


def test_a_difference_that_would_squeeze_the_others_is_a_number():
    table = pd.DataFrame({"images": 10, "seeds": 5}, index=["resnet18", "vit", "psm_mul"])
    table[["difference", "difference_low", "difference_high"]] = [[-0.37, -0.4, -0.34], [np.nan] * 3, [-0.03, -0.04, -0.01]]
    (axis,) = plots.differences({"photographs": table}, "vit").axes
    assert axis.get_xlabel() == "percentage points above ViT\n95% interval, 5 seeds × 10 images"
    assert axis.get_xlim()[1] <= 12 and "−37 (−40 to −34)" in [text.get_text() for text in axis.texts]
    drawn = [line.get_xdata() for line in axis.lines if line.get_marker() == plots.FAMILIES["psm"][1]]
    assert len(drawn) == 1 and drawn[0][0] == pytest.approx(-3)


def test_what_could_not_be_measured_is_left_out():
    table = bench(["no PSM", "add", "mul"])
    figure = plots.cost(table.assign(problem=np.where(table["row"] == "add", "out of memory", "")), 0.9)
    assert list(lines(figure.axes[1])) == ["no PSM", "mul"]


def test_what_costs_the_same_lies_side_by_side():
    figure = plots.cost(bench(["no PSM", "matmul", "mul"]), 0.9)  # all with the same memory
    drawn = [line for line in figure.axes[1].lines if not line.get_label().startswith("_")]
    assert [set(line.get_ydata()) for line in drawn] == [{1}] * 3  # as ratios to the model without PSM
    assert len({line.get_xdata()[0] for line in drawn}) == 3


def test_photographs_become_pictures():
    picture = RNG.random((32, 32, 3))
    maps = np.stack([RNG.random((2, 3, 3)), np.full((2, 3, 3), np.nan)])  # nan: nothing to scale by
    boxes = np.array([[2.0, 2.0, 8.0, 8.0]] * 2)
    figures = [
        panels.attention_maps([picture] * 2, maps, ["add", "mul"], ["one", "two"], 12, 10),
        panels.selected_patches([picture] * 7, RNG.integers(0, 9, (7, 4)), ["a"] * 7, 3, 12, 10),
        panels.saliency_grid([picture] * 2, {"gradient": RNG.random((2, 32, 32))}, ["a\nright", "b"], boxes),
        panels.image_grid(
            [picture] * 7,
            ["a"] * 7,
            3,
            [{"eye": np.array([4, 4])}, *[{"tail": np.array([9, 9]), "eye": np.array([4, 4])}] * 6],
        ),
        panels.patch_grids(picture, 16, [16, 12]),
        plots.shares({"gradient": RNG.random(9)}, "share"),
    ]
    for figure in figures:
        assert plots.png(figure).startswith(b"\x89PNG")
    assert [len(axis.images) for axis in figures[0].axes[:6]] == [1] * 6
    zooms = [axis for below in figures[3].axes[3:6] for axis in below.child_axes]  # below the first row of three
    assert [axis.get_xlabel() for axis in zooms] == ["1 eye", "1 eye", "2 tail", "1 eye", "2 tail"]
    upper = np.asarray(figures[3].axes[1].images[0].get_array())
    assert (upper[90, 90] == 255).all() and (upper[40, 40] == 255).all()  # a dot at the tail and one at the eye
    one = pictures.SIZE / panels.ZOOM / 2
    assert zooms[2].get_xlim() == (pytest.approx(90 - one), pytest.approx(90 + one))
    assert zooms[0].get_xlim() == (pytest.approx(40 - one), pytest.approx(40 + one))
    colours = {}
    for zoom in zooms:
        colours.setdefault(zoom.get_xlabel(), set()).add(to_hex(zoom.spines["left"].get_edgecolor()))
    assert [len(found) for found in colours.values()] == [1, 1] and colours["1 eye"] != colours["2 tail"]
    crossed = panels.selected_patches([picture], np.array([[0, 1]]), ["a"], 3, 12, 10, [np.array([[8.0, 16.0]])]).axes[0]
    assert (np.asarray(crossed.images[0].get_array())[160, 74:86] == 255).all()
    crops = figures[1].axes[2 * 4 - 4].child_axes  # below the first picture of four in a row
    assert [axis.get_xlabel() for axis in crops] == ["1", "2", "3", "4"]
    assert {axis.images[0].get_size() for axis in crops} == {(12, 12)}  # what is in a patch, all of it
    (largest,) = [square for square in figures[0].legends[0].get_lines() if square.get_markersize() > 1][-1:]
    figures[0].draw_without_rendering()
    width = figures[0].axes[0].get_window_extent().width * 72 / figures[0].dpi
    assert largest.get_markersize() == pytest.approx(width * 10 / 32, rel=0.1)  # a whole cell, as on the maps
    box = figures[2].axes[0].patches[0]
    assert (box.get_x(), box.get_width()) == (pytest.approx(2 * 10 - 0.5), pytest.approx(8 * 10))
    whole = panels.saliency_grid([picture], {}, ["a"], np.array([[0.0, 0.0, 32.0, 32.0]])).axes[0].patches[0]
    assert whole.get_x() > 0 and whole.get_x() + whole.get_width() < 319  # no side is lost against the page


def test_pictures_keep_their_colours(tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", str(tmp_path))
    shown = plots.show(panels.image_grid([RNG.random((64, 64, 3))] * 2, ["a"] * 2), "picture", "two pictures")
    image = Image.open(io.BytesIO(shown.data))
    assert image.format == "JPEG" and len(image.getcolors(image.width * image.height)) > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["picture.jpg"] and shown.alt == "two pictures"


def test_charts_are_drawings_with_a_text_alternative_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", str(tmp_path))
    texts = [plots.show(plots.shares({"a": np.linspace(0, 1, 9)}, "b"), "chart", 'a "b" & c').data for _ in range(2)]
    assert texts[0] == texts[1] and [path.name for path in tmp_path.iterdir()] == ["chart.svg"]
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_bytes())
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == 'a "b" & c'


def test_a_grid_has_a_frame_a_patch_and_says_how_many():
    figure = panels.patch_grids(RNG.random((126, 126, 3)), 14, (14, 10))
    for axis, (stride, side) in zip(figure.axes, ((14, 9), (10, 12)), strict=True):
        assert axis.get_title() == f"patch 14, stride {stride}:\n{side} × {side} = {side * side} patches"
        frames = axis.patches[: side * side]
        assert {frame.get_width() for frame in frames} == {14} and len(axis.patches) == side * side + 4
        assert frames[-1].get_x() == frames[-1].get_y() == (side - 1) * stride - 0.5


def test_figures_from_a_run_are_written_whole(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", str(tmp_path / "figures"))
    run = fit(tiny, progress=False)
    plots.show(plots.learning_curves({"tiny": run.metrics}), "curve", "a curve")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["curve.svg"]
