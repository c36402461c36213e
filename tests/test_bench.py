import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import project_at

from fgvc_lib import cli
from fgvc_lib.config import Experiment
from fgvc_lib.errors import ConfigError
from fgvc_lib.experiments import bench as module
from fgvc_lib.experiments.bench import (
    MORE,
    ROWS,
    BenchSetting,
    environment,
    growth,
    loading,
    measure,
    ratio_interval,
    resolve,
)
from fgvc_lib.report import cost, plots

TINY = BenchSetting(model="vit_micro16", sizes=(48, 96), repeats=2, device="cpu")


@pytest.fixture(scope="module")
def table():
    return measure(TINY)


def test_every_row_is_measured(table):
    assert table["row"].tolist() == list(ROWS) * 2 and not table["problem"].any()
    assert sorted(set(table["patches"])) == [9, 49]
    numbers = table[["train_s", "infer_s", "images_s", "train_ratio", "train_low", "train_high", "infer_ratio"]]
    assert (numbers > 0).all().all() and (table["train_low"] <= table["train_high"]).all()
    assert (table.loc[table["row"] == "no PSM", "train_ratio"] == 1).all()
    assert growth(table).index.tolist() == list(ROWS)
    assert cost.cost_table(table).shape == (2 * len(ROWS), 5)


def test_one_row_keeps_eight_patches_a_head():
    work, lengths = module._Work(resolve(TINY), 96), {}
    work.model.norm.register_forward_hook(lambda _, __, out: lengths.update({row: out.shape[1]}))
    for row in ("mul", MORE, "add", "no PSM"):
        work.forward(row)
    assert lengths == {"mul": 1 + 4, MORE: 1 + 4 * 8, "add": 1 + 4, "no PSM": 1 + 49}


def test_every_map_kept_needs_more_memory():
    setting = resolve(TINY)
    setting = module.dataclasses.replace(setting, batch_size=4)
    memory = {row: module._memory(setting, 224, row) for row in ("mul", "mul, every map kept")}
    maps = 4 * 8 * 4 * 325**2 * 4  # images, layers, heads, (N+1)^2, bytes
    assert memory["mul, every map kept"] - memory["mul"] > maps / 2


def test_a_row_that_does_not_fit_is_said_and_the_rest_goes_on(monkeypatch):
    train_step = module._Work.train_step

    def fails(work, row):
        if row == "mul, every map kept":
            raise torch.OutOfMemoryError("no")
        train_step(work, row)

    monkeypatch.setattr(module._Work, "train_step", fails)
    monkeypatch.setattr(module, "_memory", lambda setting, size, row: np.nan if row == "add" else 1)
    table = measure(module.dataclasses.replace(TINY, sizes=(48,), repeats=1))
    failed = table["problem"] == "out of memory"
    assert set(table.loc[failed, "row"]) == {"add", "mul, every map kept"} and table.loc[~failed, "train_s"].notna().all()
    assert cost.cost_table(table).loc[("48", "9", "add"), "training step"] == "out of memory"


def killed(*_):
    os._exit(9)


def test_a_process_that_is_killed_counts_as_out_of_memory(monkeypatch):
    monkeypatch.setattr(module, "_peak", killed)
    assert np.isnan(module._memory(resolve(TINY), 48, "add"))


def test_loading_with_and_without_the_cache(birds, tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    rates = loading(Experiment(data=str(birds), image_size=64, resize_size=72), images=16)
    assert set(rates) == {"PIL", "cache"} and min(rates.values()) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vit_x"}, "'vit_x'.*vit_b16"),
        ({"precision": "fp32"}, "'fp32'.*no, bf16, fp16"),
        ({"device": "tpu"}, "'tpu'.*auto, cpu, cuda"),
        ({"sizes": ()}, "at least one size"),
        ({"sizes": (48, 8)}, "8 pixels is smaller than a patch"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ConfigError, match=words):
        resolve(module.dataclasses.replace(TINY, **changes))


def test_no_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'cuda' is not available"):
        resolve(module.dataclasses.replace(TINY, device="cuda"))


@pytest.mark.parametrize("quick", [True, False])
def test_the_command_prints_and_keeps(table, tmp_path, monkeypatch, capsys, quick):
    project_at(monkeypatch, tmp_path)
    measured = []
    monkeypatch.setattr(cost, "measure", lambda setting: measured.append(setting) or table)
    monkeypatch.setattr(cost, "loading", lambda: {"PIL": 100.0, "cache": 1000.0})
    arguments = ["bench", "--model", "vit_micro16", "--sizes", "48", "96", "--device", "cpu", "--json", "out/cpu.json"]
    monkeypatch.setattr(cli.sys, "argv", ["fgvc_lib", *arguments, *["--quick"] * quick])
    cli.main()
    text, (setting,) = capsys.readouterr().out, measured
    assert (setting.model, setting.sizes) == (("vit_s16", (224, 384)) if quick else ("vit_micro16", (48, 96)))
    assert cost.cost_table(table).to_string() in text and "power of: no PSM" in text and "PIL 100, cache 1,000" in text
    assert (tmp_path / "build" / "bench.png").is_file()
    record = json.loads((tmp_path / "out" / "cpu.json").read_text())
    assert record["setting"]["sizes"] == list(setting.sizes) and pd.DataFrame(record["rows"]).equals(table)
    assert record["environment"]["floor"] == pytest.approx(11 / 12 if quick else 7 / 8)


def test_rounds_are_resampled_in_pairs():
    rng, rounds = np.random.default_rng(0), 12
    drift = np.linspace(1, 2, rounds)  # the machine becomes twice as slow
    plain = drift * (1 + 0.01 * rng.standard_normal(rounds))
    times = 0.9 * drift * (1 + 0.01 * rng.standard_normal(rounds))
    low, high = ratio_interval(times, plain)
    assert low < np.median(times) / np.median(plain) < high
    assert high - low < 0.05  # each drawn on its own: more than ten times as wide
    assert ratio_interval(plain, plain) == (1, 1)


def test_the_figure_names_its_marks_and_leaves_out_what_failed(table):
    failed = table.assign(problem=np.where(table["row"] == "matmul", "out of memory", ""))
    figure = plots.cost(failed, floor := environment(resolve(TINY))["floor"])
    measured = [row for row in ROWS if row in plots.COST_ROWS and row != "matmul"]
    for axis, more in zip(figure.axes, ([least := f"(L − 1)/L = {floor:.3f}"], []), strict=True):
        assert [line.get_label() for line in axis.lines if not line.get_label().startswith("_")] == measured + more
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*measured, least]
