import sys

import numpy as np
import pandas as pd
import pytest
import torch

from fgvc_lib import cli
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments.ablation import made, read_records, write_records
from fgvc_lib.experiments.curve import ON_BIRD, areas, curve, curves, last_layer_logits, means
from fgvc_lib.part_selection import FUSIONS, RANDOM
from fgvc_lib.report import plots
from fgvc_lib.report.tables import curve_summary, curve_table, readable
from fgvc_lib.training import fit
from fgvc_lib.vit import VisionTransformer, ViTConfig


@pytest.fixture
def annotated(birds, tiny):
    """An experiment of a second on annotated birds, its ViT without part selection."""
    return tiny.replace(data=str(birds), image_size=64, resize_size=72, fusion=None)


@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_the_last_layer_with_some_patches_is_the_models_own(layer_scale):
    torch.manual_seed(0)
    cfg = ViTConfig(48, 16, 8, 32, 3, 4, 64, 5, fusion=None, layer_scale=layer_scale)
    model = VisionTransformer(cfg).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(2, 3, 48, 48)
    tokens = model.forward_trunk(images).tokens
    kept = torch.zeros(2, 3, 25, dtype=torch.bool)
    kept[:, 0] = True
    kept[0, 1, [3, 17]] = kept[1, 1, [0, 24]] = True  # and of the third choice, none
    logits = last_layer_logits(model, tokens, kept)
    some = model.forward_head(model.forward_last(tokens, torch.tensor([[3, 17], [0, 24]])))
    alone = model.forward_head(model.forward_last(tokens[:, :1]))
    torch.testing.assert_close(logits, torch.stack([model(images), some, alone], 1), atol=1e-5, rtol=1e-5)


def test_all_patches_are_the_plain_model_and_more_patches_keep_the_fewer(annotated):
    run = fit(annotated, progress=False)
    records = curve(run)
    assert list(records["rule"].cat.categories) == [*FUSIONS, RANDOM, ON_BIRD]
    assert sorted(records["k"].unique()) == [1, 2, 4, 8, 16, 25]
    assert len(records) == 9 * 6 * len(run.predictions)
    whole = records[(records["k"] == 25) & (records["rule"] != ON_BIRD)]
    assert (whole["patches"] == 25).all()
    for _, frame in whole.groupby("rule", observed=True):
        pd.testing.assert_series_equal(frame.set_index("id")["correct"], run.correct, check_names=False)
    counts = records.pivot(index=["rule", "id"], columns="k", values="patches")
    assert (counts.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    heads = 4
    assert (counts <= np.minimum(heads * counts.columns.to_numpy(), 25)).all(axis=None)
    assert (counts >= counts.columns.to_numpy()).drop(ON_BIRD).all(axis=None)  # one head alone chooses k different ones
    on_bird = counts.loc[ON_BIRD]
    assert on_bird.nunique(axis=0).iloc[-1] > 1 and (on_bird[25] < 25).any()  # as many as the bird covers
    pd.testing.assert_frame_equal(records, curve(run))


def test_the_model_that_selects_is_tested_by_other_rules_too(cub, tiny):
    plain, selecting = fit(tiny.replace(fusion=None), progress=False), fit(tiny, progress=False)
    one, other = curve(plain, [1]), curve(selecting, (4, 1))
    assert list(one["rule"].cat.categories) == [*FUSIONS, RANDOM]  # no boxes
    assert set(one["k"]) == set(other["k"]) == {1, 4}  # all of them are always there
    with pytest.raises(ConfigError, match="number of patches, 4"):
        curve(plain, [1, 5])


@pytest.mark.parametrize("changes", [{"model": "resnet18", "stride": 16, "fusion": None}, {"head": "flatten"}])
def test_models_that_need_all_their_patches(tiny, changes):
    with pytest.raises(ConfigError, match="cannot leave patches out"):
        curve(fit(tiny.replace(**changes), progress=False))


def test_seeds_share_a_file(tiny, tmp_path):
    runs = [fit(tiny.replace(seed=seed), progress=False) for seed in (0, 1)]
    records = curves(runs)
    assert records.groupby("seed").size().to_dict() == dict.fromkeys((0, 1), len(records) / 2)
    write_records(records, tmp_path / "curve.parquet")
    kept = read_records(tmp_path / "curve.parquet")
    pd.testing.assert_frame_equal(kept, records)
    assert [(one["seed"], one["run"]) for one in made(kept)] == [(run.experiment.seed, run.folder.name) for run in runs]
    for others in ([runs[0], runs[0]], [runs[0], fit(tiny.replace(fusion="add", seed=1), progress=False)], []):
        with pytest.raises(ConfigError, match="in their seed and in nothing else"):
            curves(others)


def recorded(rates, patches, images=400, seeds=(0, 1)):
    """Records in which each rule is right at these rates, and sees these numbers of patches, by k; easy images first."""
    ease = (np.arange(images) + 0.5) / images
    return pd.concat([
        pd.DataFrame({"rule": rule, "k": k, "id": range(images), "correct": ease < rate, "patches": count, "seed": seed})
        for seed in seeds for rule in rates for k, rate, count in zip((1, 2, 4), rates[rule], patches[rule], strict=True)
    ]).astype({"rule": pd.CategoricalDtype(list(rates))})  # fmt: skip


RATES = {"mul": (0.5, 0.75, 0.8), "random": (0.2, 0.5, 0.8), "add": (0.5, 0.75, 0.8), ON_BIRD: (0.5, 0.7, 0.7)}
PATCHES = {"mul": (1, 4, 16), "random": (2, 8, 16), "add": (1, 4, 16), ON_BIRD: (1, 8, 8)}


def test_areas_by_hand():
    table = areas(recorded(RATES, PATCHES))
    assert (table["fewest"] == 2).all() and (
        table["most"] == 8
    ).all()  # in octaves: mul 0, 2, 4; random 1, 3, 4; range 1 to 3
    np.testing.assert_allclose(table.loc["mul", "area"], ((0.625 + 0.75) / 2 + (0.75 + 0.775) / 2) / 2)
    np.testing.assert_allclose(table.loc["random", "area"], (0.2 + 0.5) / 2)
    np.testing.assert_allclose(table.loc[ON_BIRD, "area"], (0.5 + 0.2 / 3 + 0.7) / 2)
    np.testing.assert_allclose(table["difference"].drop("mul"), table.loc["mul", "area"] - table["area"].drop("mul"))
    assert (table["low"] < table["area"]).all() and (table["area"] < table["high"]).all()
    assert table["enough"].drop(ON_BIRD).to_dict() == {"mul": 16, "random": 16, "add": 16} and np.isnan(
        table["enough"][ON_BIRD]
    )
    assert table.loc["random", "p"] == pytest.approx(3 * 0.0002)  # Holm's, the smallest of three
    assert table.loc["add", ["difference", "difference_low", "difference_high", "p"]].tolist() == [0, 0, 0, 1]
    assert table.loc["mul", ["difference", "difference_low", "difference_high", "p"]].isna().all()


def test_curves_that_share_no_range():
    with pytest.raises(DataError, match="share no range"):
        areas(recorded(RATES, PATCHES | {"random": (17, 18, 19)}))


def test_enough_is_where_nothing_is_lost_any_more():
    rates = {"mul": (0.8, 0.5, 0.8), "random": (0.795, 0.81, 0.8)}
    assert areas(recorded(rates, PATCHES))["enough"].to_dict() == {"mul": 16, "random": 2}


def test_the_curve_in_words_and_pictures():
    records = recorded(RATES, PATCHES)
    points, table = means(records), areas(records)
    assert points.index.tolist() == [(rule, k) for rule in RATES for k in (1, 2, 4)]
    np.testing.assert_allclose(points["accuracy"], np.concatenate(list(RATES.values())))
    assert points["patches"].tolist() == list(np.concatenate(list(PATCHES.values())))
    assert ((points["low"] < points["accuracy"]) & (points["accuracy"] < points["high"])).all()
    text = curve_table(points)
    assert text.loc["random on the bird"].tolist() == ["50.0% (1)", "70.0% (8)", "70.0% (8)"] and text.columns.tolist() == [
        1,
        2,
        4,
    ]
    assert curve_table(points, "zh-CN").loc["随机选块", 1] == "20.0%（2）"
    text = readable(table, "areas")
    assert text.loc["random", "p (Holm)"] == "< 0.001" and text.loc["add", "p (Holm)"] == "1.000"
    assert "mul can be told from random, random on the bird." in curve_summary(points, table)
    figure = plots.patch_curves(points)
    assert [axis.get_title() for axis in figure.axes] == ["mul", "add", "random on the bird"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["all 4 patches: 80.0%", "random, the same in all panels"]
    for axis, rule in zip(figure.axes, ("mul", "add", "random_on_bird"), strict=True):
        assert axis.get_xscale() == "log" and axis.get_ylim() == figure.axes[0].get_ylim()
        whole, random, own, marks = axis.lines
        assert set(whole.get_ydata()) == {0.8} and random.get_xdata().tolist() == [*PATCHES["random"]]
        assert own.get_xdata().tolist() == [*PATCHES[rule]] and own.get_ydata().tolist() == pytest.approx([*RATES[rule]])
        assert (
            marks.get_xdata().tolist() == [*PATCHES[rule]][:-1]
            and marks.get_zorder() > random.get_zorder() > own.get_zorder()
        )
    assert f"{records['seed'].nunique()} seed" in figure._supylabel.get_text()


def test_the_command(annotated, tmp_path, monkeypatch, capsys):
    run, out = fit(annotated, progress=False), tmp_path / "kept" / "curve.parquet"
    monkeypatch.setattr(sys, "argv", ["fgvc_lib", "curve", str(run.folder), "--out", str(out)])
    cli.main()
    text = capsys.readouterr().out
    assert "random on the bird" in text and "All 25 patches" in text and str(out) in text
    assert read_records(out)["id"].nunique() == len(run.predictions)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["fgvc_lib", "curve", str(run.folder), "--out", "curve.csv"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "ends in .parquet" in capsys.readouterr().err
