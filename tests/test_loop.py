import json

import pandas as pd
import pytest
from conftest import project_at

from fgvc_lib import cli
from fgvc_lib.experiments import loop
from fgvc_lib.report import cost


@pytest.mark.parametrize("changes", [{"workers": 0}, {"optimizer": "adamw", "precision": "bf16", "epochs": 2.0}])
def test_every_loop_takes_the_same_steps(tiny, monkeypatch, changes):
    pytest.importorskip("timm")
    seconds = {"bare": [], "fit": [], "timm": []}
    for name, found in seconds.items():
        measured = getattr(loop, f"{name}_seconds")

        def keeping(experiment, *arguments, measured=measured, found=found):
            assert experiment.steps == 3
            found.append(measured(experiment, *arguments))
            return found[-1]

        monkeypatch.setattr(loop, f"{name}_seconds", keeping)
    table = loop.measure_loops(tiny.replace(**changes), rounds=3, steps=3).set_index("loop")
    median = {name: sorted(found[1:])[1] for name, found in seconds.items()}
    for name in loop.LOOPS:
        row = table.loc[name]
        assert len(seconds[name]) == 4 and row["images_s"] == pytest.approx(3 * 4 / median[name])
        assert row["ratio"] == pytest.approx(median[name] / median["bare"]) and row["low"] <= row["ratio"] <= row["high"]


def test_the_loops_do_the_work(tiny, runs, monkeypatch):
    """Each sees as many images as the others, and moves the weights."""
    pytest.importorskip("timm")
    seen, build = {}, loop.build_model

    def building(*arguments):
        model = build(*arguments)
        model.register_forward_pre_hook(
            lambda module, inputs: seen.setdefault(id(module), (module, []))[1].append(inputs[0])
        )
        return model

    monkeypatch.setattr(loop, "build_model", building)
    monkeypatch.setattr("fgvc_lib.training.build_model", building)
    loop.measure_loops(tiny, rounds=1, steps=2)
    assert len(seen) == 6  # two rounds of three
    for model, batches in seen.values():
        assert [batch.shape for batch in batches[:2]] == [(4, 3, 32, 32)] * 2
        assert model.head.bias.abs().sum() > 0
    assert not list(runs.glob("*"))  # nothing is left in the project's own folder


def test_the_command_prints_and_keeps(tmp_path, monkeypatch, capsys):
    project_at(monkeypatch, tmp_path)
    table = pd.DataFrame(
        {"loop": ["bare", "fit"], "images_s": [100.0, 99.0], "ratio": [1.0, 1.01], "low": [1.0, 0.99], "high": [1.0, 1.02]}
    )
    asked = []
    monkeypatch.setattr(cost, "measure_loops", lambda *arguments: asked.append(arguments) or table)
    monkeypatch.setenv("PROFILE", "smoke")
    arguments = ["bench", "--loop", "--repeats", "5", "--device", "cpu", "--json", "out/loop.json"]
    monkeypatch.setattr(cli.sys, "argv", ["fgvc_lib", *arguments])
    cli.main()
    ((experiment, rounds),) = asked
    assert (experiment.profile, rounds) == ("smoke", 5)
    text = capsys.readouterr().out
    assert "fit's loop" in text and "1.010" in text and "0.990 – 1.020" in text and "5 rounds of 20 steps" in text
    assert pd.DataFrame(json.loads((tmp_path / "out" / "loop.json").read_text())["rows"]).equals(table)
