import math

import pandas as pd
import pytest

from fgvc_lib.config import PROFILES, Experiment, active_experiment
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments.statistics import mcnemar, wilson
from fgvc_lib.report import plots
from fgvc_lib.report.tables import compare, readable, results_table
from fgvc_lib.runs import Run
from fgvc_lib.training import fit


def run_of(folder, right, ids=None):
    run = Run(folder)
    run.predictions = pd.DataFrame({"id": ids or range(len(right)), "label": 1, "prediction": [int(r) for r in right]})
    run.environment = {"step_ms": 100.0, "seconds": 60.0, "parameters": 2_000_000}
    return run


def test_wilson_by_hand():
    z, p, n = 1.959964, 0.8, 50
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = wilson(40, 50)
    assert (low, high) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)), abs=1e-6)
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="no test images"):
        wilson(0, 0)


def test_mcnemar_by_hand(tmp_path):
    one = run_of(tmp_path / "a", [True] * 9 + [False] + [True] * 10)
    other = run_of(tmp_path / "b", [False] * 9 + [True] + [True] * 10)
    assert mcnemar(one, other) == pytest.approx(2 * 11 / 2**10)  # 9 against 1: (1 + 10) ways of 2^10, two-sided
    assert mcnemar(one, one) == 1.0
    assert "better" in compare(one, other) and "worse" in compare(other, one) and "told apart" in compare(one, one)
    shuffled = run_of(tmp_path / "c", other.correct.tolist()[::-1], ids=list(range(20))[::-1])
    assert mcnemar(one, shuffled) == mcnemar(one, other)
    with pytest.raises(DataError, match="same images"):
        mcnemar(one, run_of(tmp_path / "d", [True] * 3))


def test_tables(tmp_path):
    runs = {"ViT": run_of(tmp_path / "a", [True] * 6 + [False] * 4), "PSM mul": run_of(tmp_path / "b", [True] * 10)}
    table = results_table(runs, reference="ViT")
    assert table["accuracy"].tolist() == [0.6, 1.0] and table["images"].tolist() == [10, 10]
    assert math.isnan(table["p"]["ViT"]) and table["p"]["PSM mul"] == 2 / 2**4
    text = readable(table)
    assert text.loc["ViT", "test accuracy"] == "60.0%" and text.loc["PSM mul", "p (McNemar)"] == "0.125"
    for figure in (plots.accuracy_bars(table), plots.time_against_accuracy(table)):
        assert plots.png(figure).startswith(b"\x89PNG")


def test_a_run_that_is_not_finished(tmp_path):
    assert not Run(tmp_path).finished
    with pytest.raises(DataError, match=r"metrics.jsonl is missing.*not finished"):
        _ = Run(tmp_path).metrics


def test_figures_from_a_run_are_written_whole(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", str(tmp_path / "figures"))
    run = fit(tiny, progress=False)
    image = plots.show(plots.learning_curves({"tiny": run.metrics}), "curve", "a curve")
    assert (tmp_path / "figures" / "curve.png").read_bytes() == image.data
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["curve.png", "curve.svg"]


def test_profiles(monkeypatch):
    assert set(PROFILES) == {"smoke", "quick", "full"}
    monkeypatch.delenv("PROFILE", raising=False)
    monkeypatch.delenv("DATA", raising=False)
    assert active_experiment() == PROFILES["quick"] == Experiment(weights="data/weights/vit_micro16.npz")
    monkeypatch.setenv("PROFILE", "full")
    monkeypatch.setenv("DATA", "somewhere")
    assert active_experiment() == PROFILES["full"].replace(data="somewhere")
    monkeypatch.setenv("PROFILE", "fast")
    with pytest.raises(ConfigError, match="'fast'.*smoke, quick, full"):
        active_experiment()
