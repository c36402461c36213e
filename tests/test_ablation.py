import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from fgvc_lib import cli
from fgvc_lib.config import PROFILES, project_path
from fgvc_lib.datasets import open_splits
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments import ablation as module
from fgvc_lib.experiments.ablation import (
    ablate,
    against_record,
    choose,
    jobs,
    made,
    merge,
    plan,
    progress,
    read_records,
    rerun,
    write_records,
)
from fgvc_lib.experiments.variants import Variant, ablation_variants
from fgvc_lib.runs import Run, weights_checksum
from fgvc_lib.training import fit


@pytest.fixture
def variants(tiny):
    return {
        "vit": Variant("vit", "ViT", "vit", tiny.replace(fusion=None)),
        "psm_mul": Variant("psm_mul", "PSM mul", "psm", tiny),
        "mine": Variant("mine", "PSM of mine", "control", tiny.replace(fusion="random")),
    }


@pytest.fixture
def records(variants):
    return ablate(variants, seeds=(0, 1))[0]


@pytest.fixture
def broken(variants, tmp_path):
    """A variant that cannot be trained, before those that can."""
    experiment = variants["vit"].experiment.replace(weights=str(tmp_path / "none.npz"))
    return {"broken": replace(variants["vit"], key="broken", model="Broken", experiment=experiment)} | variants


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_an_ablation_is_each_variant_with_each_seed():
    variants, seeds, file = plan(PROFILES["quick"])
    assert list(variants) == list(ablation_variants(PROFILES["quick"])) and file.name == "quick.parquet"
    todo = jobs(variants, seeds)
    assert len(todo) == 5 * 22 and len({experiment.hash() for experiment in todo.values()}) == len(todo)
    assert [seed for _, seed in todo] == sorted(seed for _, seed in todo)  # whole seeds, if it is stopped


def test_photographs_have_an_ablation_of_their_own(tmp_path):
    variants, seeds, file = plan(PROFILES["quick"].replace(data=str(tmp_path / "photos")))
    assert file.name == "quick-photos.parquet" and seeds == (0, 1, 2) and "psm_mul_scratch" in variants


def test_an_option_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"no option stepz \(did you mean steps\?\): it has .*steps"):
        PROFILES["quick"].replace(stepz=3)


def test_what_is_done_is_not_done_again(variants, records, monkeypatch):
    done = progress(variants, (0, 1))
    assert done.index.tolist() == ["ViT", "PSM mul", "PSM of mine"] and done.stack().str.endswith("%").all()
    assert (progress(variants, (2,)) == "").all(axis=None)
    monkeypatch.setattr("fgvc_lib.training._fit", lambda *_: pytest.fail("trained again"))
    again, failed = ablate(variants, seeds=(0, 1))
    pd.testing.assert_frame_equal(again, records)
    assert not failed


def test_records_survive_the_file(records, tmp_path):
    write_records(records, tmp_path / "r.parquet")
    found = read_records(tmp_path / "r.parquet")
    assert found.attrs == records.attrs and len(found) == 3 * 2 * 6
    assert found["variant"].cat.categories.tolist() == ["vit", "psm_mul", "mine"]
    pd.testing.assert_series_equal(found["prediction"], records["prediction"])


def test_records_say_how_each_run_was_made(records, variants, tiny, tmp_path, runs):
    entries = made(records)
    assert [(entry["variant"], entry["seed"]) for entry in entries] == list(jobs(variants, (0, 1)))
    for entry, experiment in zip(entries, jobs(variants, (0, 1)).values(), strict=True):
        run = Run(runs / entry["run"])
        assert run.finished and entry["environment"] == run.environment
        assert entry["experiment"]["data"] == "" and experiment.data == tiny.data
        assert experiment == type(experiment)().replace(**entry["experiment"]).replace(data=tiny.data)
        assert (entry["data"], entry["weights"]) == (open_splits(tiny)[0].fingerprint, weights_checksum(experiment))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path, records: None, "there are no records at .*r.parquet"),
        (lambda path, records: path.write_bytes(b"junk"), "cannot be read"),
        (lambda path, records: records.attrs.update(schema=3) or write_records(records, path), "has schema 3.*reads 4"),
    ],
)
def test_records_that_cannot_be_used(records, tmp_path, spoil, words):
    spoil(tmp_path / "r.parquet", records)
    with pytest.raises(DataError, match=words):
        read_records(tmp_path / "r.parquet")


@pytest.mark.parametrize("name", ["psm_mul", "PSM mul"])
def test_a_variant_runs_again_to_the_same_result(name, records, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    again = rerun(records, name, seed=1, data=tiny.data)
    assert again.folder.parent == tmp_path / "rerun-" and again.folder.name == made(records)[4]["run"]
    before = records[(records["variant"] == "psm_mul") & (records["seed"] == 1)]
    np.testing.assert_array_equal(again.predictions["prediction"], before["prediction"])
    accuracy, spread, *rest = against_record(records, name, 1, again).splitlines()
    right = again.correct.sum()
    assert accuracy == f"PSM mul, seed 1: the recorded accuracy to the image: {right} of 6 right, as recorded."
    assert rest == ["The data are those of the record.", "The initial weights are those of the record."]
    assert spread.startswith("Over 2 recorded seeds the accuracy has a standard deviation of")


def test_a_variant_that_is_not_recorded(records):
    with pytest.raises(ConfigError, match="no variant 'mul' in the records: choose one of ViT; PSM mul; mine"):
        rerun(records, "mul")
    with pytest.raises(ConfigError, match="'PSM mul' was not run with seed 7: choose one of 0, 1"):
        rerun(records, "PSM mul", 7)


def entry(seed):
    return {"variant": "psm_mul", "seed": seed, "data": "d", "weights": "w"}


def record_of(right):
    """Records of the variant psm_mul on ten images; right: how many are, seed by seed."""
    frames = [
        pd.DataFrame(
            {"id": range(10), "label": 1, "prediction": [1] * n + [0] * (10 - n), "seed": seed, "variant": "psm_mul"}
        )
        for seed, n in enumerate(right)
    ]
    records = pd.concat(frames, ignore_index=True).astype({"variant": "category"})
    records.attrs["runs"] = json.dumps([entry(seed) for seed in range(len(right))])
    return records


def run_of(predictions, ids=range(10), data="d", weights="w"):
    run = Run("somewhere")
    run.predictions = pd.DataFrame({"id": ids, "label": 1, "prediction": predictions})
    run.environment = {"data": data, "weights": weights}
    return run


def test_a_run_is_held_against_the_record_of_its_seed():
    records = record_of([7, 5, 6])  # in points: deviations of 10, -10 and 0, and so a standard deviation of 10
    same = against_record(records, "psm_mul", 0, run_of([1] * 7 + [0] * 3))
    assert "the recorded accuracy to the image: 7 of 10 right, as recorded." in same
    assert "Over 3 recorded seeds the accuracy has a standard deviation of 10.0 points." in same and "not those" not in same
    one_more = against_record(records, "psm_mul", 0, run_of([1] * 8 + [0] * 2))
    assert "8 of 10 right, recorded 7 (+10.0 points); predictions that differ: 1." in one_more
    as_many = against_record(records, "psm_mul", 0, run_of([0] + [1] * 7 + [0] * 2))
    assert "7 of 10 right, recorded 7 (+0.0 points); predictions that differ: 2." in as_many
    shuffled = against_record(records, "psm_mul", 0, run_of(([1] * 7 + [0] * 3)[::-1], ids=range(9, -1, -1)))
    assert shuffled == same


def test_other_data_and_other_weights_are_said_apart():
    records, predictions = record_of([7, 5]), [1] * 7 + [0] * 3
    data = against_record(records, "psm_mul", 0, run_of(predictions, data="other")).splitlines()
    assert data[2:] == ["The data are not those of the record.", "The initial weights are those of the record."]
    weights = against_record(records, "psm_mul", 0, run_of(predictions, weights="")).splitlines()
    assert weights[2:] == ["The data are those of the record.", "The initial weights are not those of the record."]
    images = against_record(records, "psm_mul", 0, run_of(predictions[1:], ids=range(1, 10), data="other"))
    assert "6 of 9 right, recorded 7 of 10: the test images are not the same." in images


def test_a_single_recorded_seed_says_nothing_about_the_spread():
    text = against_record(record_of([7]), "PSM mul", 0, run_of([1] * 7 + [0] * 3))
    assert "Only one seed is recorded" in text and "nan" not in text and "deviation" not in text


def test_on_ray_a_worker_dies_and_no_run_is_lost_or_run_twice(ray, tiny, runs):
    base = Variant("mine", "mine", "psm", tiny.replace(steps=60, log_every=10, checkpoint_every=10))
    variants = {f"lr {n}": base.changed("longer", lr=0.01 * n) for n in (1, 2, 3, 4)}
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
        records, failed = ablate(variants, seeds=(0,), ray_address="local")
    finally:
        killed.append(None)
    assert killed[0] is not None and not failed
    assert len(records) == 4 * 6 and len(list(runs.glob("*/environment.json"))) == 4
    for key, variant in variants.items():  # the one that was killed went on from its checkpoint, to the same result
        again = fit(variant.experiment, progress=False, runs=runs / "again")
        np.testing.assert_array_equal(again.predictions["prediction"], records.loc[records["variant"] == key, "prediction"])


@pytest.mark.parametrize("address", [None, "local"])
def test_a_run_fails_and_the_others_go_on(ray, broken, variants, capsys, address):
    records, failed = ablate(broken, seeds=(0,), ray_address=address)
    assert list(failed) == [("broken", 0)] and "none.npz is missing" in failed["broken", 0]
    assert [(one["variant"], one["seed"]) for one in made(records)] == [(key, 0) for key in variants]
    assert f"Broken, seed 0, failed: {failed['broken', 0]}\n" in capsys.readouterr().out


def test_all_runs_fail(broken):
    records, failed = ablate({"broken": broken["broken"]}, seeds=(0, 1))
    assert records is None and list(failed) == [("broken", 0), ("broken", 1)]


def test_a_failed_run_is_one_line_and_exit_code_2_and_the_others_are_recorded(
    broken, variants, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "records.parquet"
    monkeypatch.setattr(module, "plan", lambda base: (broken, (0, 1), file))
    monkeypatch.setattr(sys, "argv", ["fgvc_lib", "ablate", "--seeds", "0"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    (error,) = [line for line in said.err.splitlines() if "error" in line]
    assert stop.value.code == 2 and error.startswith(
        "error: 1 of 4 runs failed (the first: Broken, seed 0: the weights file"
    )
    assert "3 of 4 runs are done" in said.out and {*read_records(file)["variant"]} == {*variants}


def test_on_ray_the_tasks_see_where_their_runs_look(ray, tiny, birds, monkeypatch):
    variants = {"psm_mul": Variant("psm_mul", "PSM mul", "psm", tiny.replace(data=str(birds)))}
    with monkeypatch.context() as patch:
        patch.setattr(module, "localise", lambda run: pytest.fail("here, one run after the other"))
        records, failed = ablate(variants, seeds=(0, 1), ray_address="local")
    assert not failed and records["map_box"].notna().all()
    pd.testing.assert_frame_equal(records, ablate(variants, seeds=(0, 1))[0])


def test_on_ray_a_fresh_clone_draws_its_birds_once(tmp_path):
    pytest.importorskip("ray")
    clone, count = tmp_path / "clone", tmp_path / "count"
    (clone / "notebooks").mkdir(parents=True)
    shutil.copytree(project_path("fgvc_lib"), clone / "fgvc_lib", ignore=shutil.ignore_patterns("__pycache__"))
    with open(clone / "fgvc_lib" / "synthbirds" / "generation.py", "a") as file:
        file.write(f"\n\ndef _finished(root, stamp, there=_finished):\n    open({str(count)!r}, 'a').write('asked ')\n")
        file.write("    return there(root, stamp)\n")
        file.write(f"\n\ndef _draw_all(*arguments, draw=_draw_all):\n    open({str(count)!r}, 'a').write('drawn ')\n")
        file.write("    return draw(*arguments)\n")
    command = ["ablate", "--rows", "vit", "vit_overlap", "resnet18", "--seeds", "0", "--ray", "local"]
    environment = os.environ | {"PROFILE": "smoke", "DATA": "", "RUNS": "", "PYTHONPATH": str(clone)}
    ran = subprocess.run(
        [sys.executable, "-m", "fgvc_lib", *command], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0 and "3 of 3 runs are done" in ran.stdout, ran.stdout + ran.stderr
    words = count.read_text().split()
    assert words.count("drawn") == 1 and words.count("asked") > 4  # by this process, and by the tasks


@pytest.mark.parametrize("lost", ["project", "file"])
def test_a_cluster_that_does_not_see_the_folder_is_refused(ray, variants, runs, tmp_path, monkeypatch, lost):
    if lost == "project":
        monkeypatch.setattr(module, "project_path", lambda path: tmp_path / "nowhere")
    else:  # a folder of that name is there, and another one
        monkeypatch.setattr(module, "write_whole", lambda path, content: None)
    with pytest.raises(ConfigError, match=r"of the Ray cluster cannot see .*runs as it is here: share the project's folder"):
        ablate(variants, seeds=(0,), ray_address="local")
    assert not list(Path(runs).glob("*"))


def test_no_cluster_is_one_line(variants, monkeypatch):
    ray = pytest.importorskip("ray")

    def init(*arguments, **options):
        raise ConnectionError("Could not find any\nrunning Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"at 'auto' \(Could not find any running Ray instance\.\): start one"):
        ablate(variants, seeds=(0,), ray_address="auto")


def test_a_choice_of_variants_by_title_or_key(variants):
    assert choose(variants, ()) == variants
    one, other = list(variants)[:2]
    assert list(choose(variants, [variants[other].title, one])) == [other, one]
    with pytest.raises(ConfigError, match="no variant 'vit_huge': choose from"):
        choose(variants, ["vit_huge"])


def test_records_are_added_to_those_that_are_there(variants, records):
    first = next(iter(variants))
    some = records[(records["variant"] != first) | (records["seed"] == 0)]
    some.attrs = records.attrs | {
        "runs": json.dumps([one for one in made(records) if one["variant"] != first or one["seed"] == 0])
    }
    newer, _ = ablate({first: variants[first]}, seeds=(1, 0))
    merged = merge(some, newer)
    keys = ["variant", "seed", "id"]
    sort = lambda frame: frame.astype({"variant": str}).sort_values(keys).reset_index(drop=True)  # noqa: E731
    pd.testing.assert_frame_equal(sort(merged), sort(records), check_like=True)
    assert sorted((one["variant"], one["seed"]) for one in made(merged)) == sorted(
        (one["variant"], one["seed"]) for one in made(records)
    )
    pd.testing.assert_frame_equal(sort(merge(merged, newer)), sort(merged), check_like=True)
