import shutil
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from fgvc_lib.config import PROFILES
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments import ablation as module
from fgvc_lib.experiments.ablation import ablate, jobs, made, plan, progress, read_records, rerun, write_records
from fgvc_lib.experiments.localisation import localise
from fgvc_lib.experiments.statistics import bootstrap, expected_calibration_error, summary
from fgvc_lib.experiments.variants import ablation_variants
from fgvc_lib.training import fit


@pytest.fixture
def rows(tiny):
    return {"plain": tiny.replace(fusion=None), "PSM": tiny, "control": tiny.replace(fusion="random")}


@pytest.fixture
def records(rows):
    return ablate(rows, seeds=(0, 1))


def test_every_row_of_the_grid_is_another_experiment():
    rows = ablation_variants(PROFILES["quick"])
    assert len({row.hash() for row in rows.values()}) == len(rows) >= 18
    assert len(jobs(rows)) == 5 * len(rows)


def test_photographs_have_a_grid_of_their_own(tmp_path):
    rows, seeds, file = plan(PROFILES["quick"].replace(data=str(tmp_path / "photos")))
    assert file.name == "quick-photos.parquet" and seeds == (0, 1, 2)
    assert all(f"{name}, from scratch" in rows for name in rows if "scratch" not in name)
    assert rows["EfficientNet-Lite0"].weights and not any(rows[name].weights for name in rows if "scratch" in name)
    rows, seeds, file = plan(PROFILES["quick"])
    assert file.name == "quick.parquet" and len(seeds) == 5 and "PSM random" in rows


def test_looks_of_a_run_on_annotated_birds(birds, runs, tiny):
    run = fit(tiny.replace(data=str(birds), image_size=64, resize_size=72), progress=False)
    hits = localise(run)
    assert len(hits) == len(run.predictions) and hits.columns.str.match("map_|selected_").all()
    rates = hits.drop(columns=["map_peak"]).mean()
    assert ((rates >= 0) & (rates <= 1)).all() and hits["map_box"].gt(0).all()
    other = localise(run, "integrated gradients")
    assert not other["map_box"].equals(hits["map_box"]) and other["selected_bird"].equals(hits["selected_bird"])
    assert localise(fit(tiny, progress=False)).empty  # no boxes, no columns
    control = fit(run.experiment.replace(fusion="random"), progress=False)
    pd.testing.assert_frame_equal(localise(control), localise(control))  # the same patches whenever it is looked at


def test_looks_leaves_out_what_could_not_be_decoded(birds, runs, tiny, tmp_path):
    folder = shutil.copytree(birds, tmp_path / "birds")
    experiment = tiny.replace(data=str(folder), image_size=64, resize_size=72, skip_broken=True)
    broken = open_splits(experiment)[1].paths[2]
    broken.write_bytes(broken.read_bytes()[:300])
    run = fit(experiment, progress=False)
    assert len(localise(run)) == len(run.predictions) == len(open_splits(experiment)[1]) - 1
    shutil.rmtree(folder / "parts")
    whole = fit(experiment.replace(seed=1), progress=False)
    assert localise(whole)[["map_part", "map_counting"]].isna().all(axis=None) and localise(whole)["map_box"].gt(0).all()


def test_a_grid_with_an_unknown_option():
    with pytest.raises(ConfigError, match="no option stepz: it has .*steps"):
        PROFILES["quick"].replace(stepz=3)


def test_what_is_done_is_not_done_again(rows, records, monkeypatch):
    assert (progress(rows, (0, 1)) != "").all().all() and (progress(rows, (2,)) == "").all().all()
    monkeypatch.setattr("fgvc_lib.training._fit", lambda *_: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(ablate(rows, seeds=(0, 1)), records)


def test_records_survive_the_file(records, tmp_path):
    write_records(records, tmp_path / "r.parquet")
    found = read_records(tmp_path / "r.parquet")
    assert found.attrs == records.attrs and len(found) == 3 * 2 * 6
    assert found["row"].cat.categories.tolist() == ["plain", "PSM", "control"]
    pd.testing.assert_series_equal(found["prediction"], records["prediction"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path, records: None, "cannot be read"),
        (lambda path, records: path.write_bytes(b"junk"), "cannot be read"),
        (lambda path, records: records.attrs.update(schema=99) or write_records(records, path), "has schema 99.*reads 3"),
    ],
)
def test_records_that_cannot_be_used(records, tmp_path, spoil, words):
    spoil(tmp_path / "r.parquet", records)
    with pytest.raises(DataError, match=words):
        read_records(tmp_path / "r.parquet")


def test_a_row_runs_again_to_the_same_result(records, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    again = rerun(records, "control", seed=1, data=rows["control"].data)
    before = records[(records["row"] == "control") & (records["seed"] == 1)]
    assert again.folder.parent == tmp_path / "rerun-"
    np.testing.assert_array_equal(again.predictions["prediction"], before["prediction"])
    assert again.folder.name in [entry["run"] for entry in made(records)]
    with pytest.raises(ConfigError, match="no row 'mul'.*plain; PSM; control"):
        rerun(records, "mul")
    with pytest.raises(ConfigError, match="not run with seed 7: choose one of 0, 1"):
        rerun(records, "PSM", 7)


def test_the_summary_pairs_by_seed_and_image(records):
    table = summary(records, "plain")
    accuracy = {
        name: (frame["label"] == frame["prediction"]).mean() for name, frame in records.groupby("row", observed=True)
    }
    for name in accuracy:
        assert table.loc[name, "accuracy"] == pytest.approx(accuracy[name])
        assert table.loc[name, "difference"] == pytest.approx(accuracy[name] - accuracy["plain"])
        assert table.loc[name, "low"] <= table.loc[name, "accuracy"] <= table.loc[name, "high"]
    assert np.isnan(table.loc["plain", "p"]) and (table["seeds"] == 2).all() and (table["images"] == 6).all()
    with pytest.raises(DataError, match="PSM and plain have not the same"):
        summary(records[~((records["row"] == "PSM") & (records["seed"] == 1))], "plain")


def test_holm_corrects_a_clear_difference_less_than_it_kills():
    rng = np.random.default_rng(0)
    frames = []
    for name, rate in (("base", 0.5), ("same", 0.5), ("better", 0.8)):
        for seed in range(5):
            right = rng.random(200) < rate
            frame = pd.DataFrame({"id": range(200), "label": 1, "prediction": right.astype(int), "probability": 0.5})
            frames.append(frame.assign(row=name, seed=seed))
    table = summary(pd.concat(frames), "base")
    assert table.loc["better", "p"] < 0.01 < 0.05 < table.loc["same", "p"]
    assert table.loc["better", "difference_low"] > 0.2


def test_bootstrap_covers_images_and_seeds():
    rng = np.random.default_rng(0)
    values = (rng.random((1, 400)) < 0.5).astype(float)
    assert bootstrap(values).std() == pytest.approx(0.025, rel=0.1)  # one seed: the binomial's own
    apart = np.repeat([[0.2], [0.8]], 400, axis=1)
    assert bootstrap(apart).std() == pytest.approx(0.3 / 2**0.5, rel=0.1)  # no spread over images: all from the seeds


def test_calibration_by_hand():
    frame = pd.DataFrame({"label": [0, 0, 0, 0], "prediction": [0, 1, 0, 0], "probability": [0.75, 0.75, 0.95, 0.95]})
    assert expected_calibration_error(frame, bins=10) == pytest.approx((abs(0.5 - 0.75) + abs(1 - 0.95)) / 2)


def test_on_ray_a_worker_dies_and_no_run_is_lost_or_run_twice(tiny, runs, monkeypatch):
    ray = pytest.importorskip("ray")
    rows = {f"row {n}": tiny.replace(steps=60, log_every=10, checkpoint_every=10, lr=0.01 * n) for n in (1, 2, 3, 4)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed = []

    def kill_one_that_trains():
        while not killed:
            for worker in psutil.process_iter(["name", "cmdline"]):
                if "ray::_task" in " ".join(worker.info["cmdline"] or []) and list(runs.glob("*/checkpoint.pt")):
                    worker.kill()
                    killed.append(worker.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one_that_trains, daemon=True)
    killer.start()
    try:
        records = ablate(rows, seeds=(0,), ray_address="local")
    finally:
        killed.append(None)
        ray.shutdown()
    assert killed[0] is not None
    assert len(records) == 4 * 6 and len(list(runs.glob("*/environment.json"))) == 4
    for name, row in rows.items():  # the one that was killed went on from its checkpoint, to the same result
        again = fit(row, progress=False, runs=runs / "again")
        np.testing.assert_array_equal(again.predictions["prediction"], records.loc[records["row"] == name, "prediction"])
