import math

import pandas as pd

from fgvc_lib.report import plots
from fgvc_lib.report.tables import compare, readable, results_table
from fgvc_lib.runs import Run
from fgvc_lib.training import fit


def run_of(folder, right, ids=None):
    run = Run(folder)
    run.predictions = pd.DataFrame({"id": ids or range(len(right)), "label": 1, "prediction": [int(r) for r in right]})
    run.environment = {"step_ms": 100.0, "seconds": 60.0, "parameters": 2_000_000}
    return run


def test_one_pair_in_words(tmp_path):
    one = run_of(tmp_path / "a", [True] * 9 + [False] + [True] * 10)
    other = run_of(tmp_path / "b", [False] * 9 + [True] + [True] * 10)
    assert "better" in compare(one, other) and "worse" in compare(other, one) and "told apart" in compare(one, one)


def test_tables(tmp_path):
    runs = {"ViT": run_of(tmp_path / "a", [True] * 6 + [False] * 4), "PSM mul": run_of(tmp_path / "b", [True] * 10)}
    table = results_table(runs, reference="ViT")
    assert table["accuracy"].tolist() == [0.6, 1.0] and table["images"].tolist() == [10, 10]
    assert math.isnan(table["p"]["ViT"]) and table["p"]["PSM mul"] == 2 / 2**4
    text = readable(table)
    assert text.loc["ViT", "test accuracy"] == "60.0%" and text.loc["PSM mul", "p (McNemar)"] == "0.125"
    for figure in (plots.accuracy_bars(table), plots.time_against_accuracy(table)):
        assert plots.png(figure).startswith(b"\x89PNG")


def test_figures_from_a_run_are_written_whole(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", str(tmp_path / "figures"))
    run = fit(tiny, progress=False)
    image = plots.show(plots.learning_curves({"tiny": run.metrics}), "curve", "a curve")
    assert (tmp_path / "figures" / "curve.png").read_bytes() == image.data
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["curve.png", "curve.svg"]
