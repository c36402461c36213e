"""Training that is killed, and files of a run that are damaged: the same result in the end, or one sentence."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_cub
from tqdm import tqdm

from fgvc_lib import training
from fgvc_lib.config import Experiment
from fgvc_lib.errors import DataError, StorageError, TrainingError
from fgvc_lib.machine.checkpoints import resume, save_checkpoint
from fgvc_lib.runs import FILES, find_run
from fgvc_lib.training import fit, load_model

FORK = multiprocessing.get_context("forkserver")  # a server that has imported everything: a child starts at once
FORK.set_forkserver_preload(["fgvc_lib.training", __name__])


def train(experiment, runs, step=None, delay=0.0, renaming=None, sent=signal.SIGKILL):
    """What a child does. It dies some seconds after one of its steps, or at one of its renamings of a file: the file is
    written then, and not renamed yet."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # not one that all processes share, which those that are killed would leave behind
    one_step, rename, steps, renamings = training._step, os.replace, iter(range(1000)), iter(range(1000))

    def stepping(*arguments):
        if next(steps) == step:
            threading.Timer(delay, os.kill, (os.getpid(), sent)).start()
        return one_step(*arguments)

    def replacing(*paths):
        if next(renamings) == renaming:
            os.kill(os.getpid(), sent)
        rename(*paths)

    training._step, os.replace = stepping, replacing
    fit(experiment, progress=False, runs=runs)


def run_child(*arguments, **options):
    """Train in a process of its own -> its exit code."""
    child = FORK.Process(target=train, args=arguments, kwargs=options)
    child.start()
    child.join()
    return child.exitcode


def same(run, other):
    """Whether two runs ended with the same weights, predictions and metrics, bit for bit."""
    assert (run.folder / "model.safetensors").read_bytes() == (other.folder / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(run.predictions, other.predictions)
    pd.testing.assert_frame_equal(run.metrics.drop(columns="seconds"), other.metrics.drop(columns="seconds"))
    assert sorted(path.name for path in run.folder.iterdir() if path.suffix != ".bad") == sorted(FILES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the children: another number of threads sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return Experiment(
        data=str(write_cub(tmp_path_factory.mktemp("data"))), image_size=32, resize_size=36, batch_size=4, steps=20,
        warmup_steps=1, log_every=2, checkpoint_every=3, stride=12, fusion="mul", dropout=0.2, optimizer="adamw", lr=1e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(longer, tmp_path_factory):
    """The run that nothing interrupts."""
    runs = tmp_path_factory.mktemp("whole")
    assert run_child(longer, runs) == 0
    return find_run(longer, runs)


@pytest.fixture(scope="module")
def killed(longer, tmp_path_factory):
    """A folder of runs with one that was killed after step 10: its checkpoints are those of steps 9 and 6."""
    runs = tmp_path_factory.mktemp("killed")
    assert run_child(longer, runs, step=10) == -signal.SIGKILL
    return runs


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(longer, whole, tmp_path, kills):
    rng, runs = np.random.default_rng(kills), tmp_path / "runs"
    while kills:
        code = run_child(longer, runs, step=rng.integers(12), delay=rng.uniform(0, 0.05))
        kills -= code == -signal.SIGKILL
        if code == 0:
            same(find_run(longer, runs), whole)
            shutil.rmtree(runs)
    assert run_child(longer, runs) == 0
    same(find_run(longer, runs), whole)


def test_killed_while_a_file_is_written_it_ends_with_the_same_weights(longer, whole, tmp_path):
    runs, codes = tmp_path / "runs", [None]
    while codes[-1] != 0:  # at the first file, at the second, …: those of the end, too
        codes.append(run_child(longer, runs, renaming=len(codes)))
    assert len(codes) > 6 and set(codes[1:-1]) == {-signal.SIGKILL}
    same(find_run(longer, runs), whole)


@pytest.mark.parametrize("sent_at", [0, 7])
def test_sigterm_writes_a_checkpoint_first(longer, whole, tmp_path, capsys, sent_at):
    runs = tmp_path / "runs"
    assert run_child(longer, runs, step=sent_at, sent=signal.SIGTERM) == -signal.SIGTERM
    folder = find_run(longer, runs).folder
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["step"]
    assert sent_at < step < 20 and not find_run(longer, runs).finished
    same(fit(longer, progress=False, runs=runs), whole)
    assert "cannot be used" not in capsys.readouterr().out


def test_sigterm_does_after_training_what_it_did_before(tiny):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        fit(tiny, progress=False)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_training_resumes_in_a_thread_too(longer, killed, whole, tmp_path):
    shutil.copytree(killed, tmp_path / "runs")
    with ThreadPoolExecutor(1) as pool:
        same(pool.submit(fit, longer, progress=False, runs=tmp_path / "runs").result(), whole)


def damage(path, kind, other):
    content = path.read_bytes()
    if kind == "zeroes":
        third = len(content) // 3
        path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello", "another run's": other}[kind])


@pytest.fixture(scope="module")
def foreign(longer, tmp_path_factory):
    """The folder of another run, with a checkpoint."""
    runs = tmp_path_factory.mktemp("foreign")
    assert run_child(longer.replace(seed=5), runs, step=6) == -signal.SIGKILL
    return find_run(longer.replace(seed=5), runs).folder


@pytest.mark.parametrize("kind", ["cut", "empty", "zeroes", "text", "another run's", "folder"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(
    longer, killed, whole, foreign, tmp_path, capsys, kind
):
    shutil.copytree(killed, tmp_path / "runs")
    folder = find_run(longer, tmp_path / "runs").folder
    damage(folder / "checkpoint.pt", kind, (foreign / "checkpoint.pt").read_bytes())
    same(fit(longer, progress=False, runs=tmp_path / "runs"), whole)
    assert (folder / "checkpoint.pt.bad").exists()
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "checkpoint" in line]
    assert re.search("checkpoint.pt cannot be used .*checkpoint.pt.bad; training goes on from step 6", said)


def test_where_both_checkpoints_are_damaged_training_starts_anew(longer, killed, whole, tmp_path, capsys):
    shutil.copytree(killed, tmp_path / "runs")
    folder = find_run(longer, tmp_path / "runs").folder
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        damage(folder / name, "zeroes", b"")
    same(fit(longer, progress=False, runs=tmp_path / "runs"), whole)
    assert "and is set aside as checkpoint-before.pt.bad; training goes on from step 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"model": {"weight": torch.zeros(3, 2)}}, {"state": {"step": 3}}, {"state": {"step": 3, "recent": [2]}}]
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changes):
    model, state = torch.nn.Linear(2, 2, bias=False), {"step": 0}
    fits = {"model": {"weight": torch.ones(2, 2)}, "state": {"step": 3, "recent": [(torch.ones(()), torch.ones(()))]}}
    save_checkpoint(tmp_path, fits)
    resume(tmp_path, {"model": model}, state, torch.device("cpu"))
    assert state == fits["state"] and torch.equal(model.weight, fits["model"]["weight"])
    save_checkpoint(tmp_path, fits | changes)
    with pytest.raises(TrainingError, match=r"another training: remove checkpoint\.pt and checkpoint-before\.pt$"):
        resume(tmp_path, {"model": model}, {"step": 0}, torch.device("cpu"))


def test_a_checkpoint_lost_between_two_renamings_resumes_from_the_one_before(longer, killed, whole, tmp_path):
    shutil.copytree(killed, tmp_path / "runs")
    (find_run(longer, tmp_path / "runs").folder / "checkpoint.pt").unlink()
    same(fit(longer, progress=False, runs=tmp_path / "runs"), whole)


@pytest.fixture(scope="module")
def short(longer):
    return longer.replace(steps=2)


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    """A folder with two finished runs."""
    runs = tmp_path_factory.mktemp("finished")
    for seed in (0, 5):
        fit(short.replace(seed=seed), progress=False, runs=runs)
    return runs


@pytest.mark.parametrize("kind", ["cut", "zeroes", "text", "another run's"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_finished_run_is_set_aside_and_made_again(short, finished, tmp_path, capsys, name, kind):
    shutil.copytree(finished, tmp_path / "runs")
    other = find_run(short.replace(seed=5), finished)
    run = find_run(short, tmp_path / "runs")
    damage(run.folder / name, kind, (other.folder / name).read_bytes())
    if name not in ("experiment.json", "environment.json"):  # reading it finds it, too
        with pytest.raises(DataError, match=f"{name} cannot be used .*: train the run again"):
            _ = run.metrics, run.predictions, load_model(run)
    same(fit(short, progress=False, runs=tmp_path / "runs"), find_run(short, finished))
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "cannot be used" in line]
    assert f"{name} cannot be used (" in said and (run.folder / f"{name}.bad").exists()
    assert fit(short, progress=False, runs=tmp_path / "runs").finished and not capsys.readouterr().out


def test_all_files_of_another_run_are_no_run_of_this_experiment(short, finished, tmp_path, capsys):
    shutil.copytree(find_run(short.replace(seed=5), finished).folder, find_run(short, tmp_path).folder)
    same(fit(short, progress=False, runs=tmp_path), find_run(short, finished))
    assert "environment.json cannot be used (it is another run's)" in capsys.readouterr().out


def test_a_file_that_a_finished_run_has_lost_is_made_again(short, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "runs")
    (find_run(short, tmp_path / "runs").folder / "predictions.parquet").unlink()
    same(fit(short, progress=False, runs=tmp_path / "runs"), find_run(short, finished))
    assert "predictions.parquet is missing: " in capsys.readouterr().out


def test_a_run_without_checksums_is_still_a_finished_run(short, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "runs")
    path = find_run(short, tmp_path / "runs").folder / "environment.json"
    record = json.loads(path.read_text())
    assert set(record.pop("sha256")) == set(FILES) - {"environment.json"} and record.pop("run") == path.parent.name
    path.write_text(json.dumps(record))
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", None)
        assert fit(short, progress=False, runs=tmp_path / "runs").finished
    for name in ("predictions.parquet", "model.safetensors", "metrics.jsonl"):
        damage(path.with_name(name), "cut", b"")
        same(fit(short, progress=False, runs=tmp_path / "runs"), find_run(short, finished))


def test_what_a_killed_process_left_half_written_is_removed(tiny):
    folder = find_run(tiny).folder
    folder.mkdir(parents=True)
    (folder / ".checkpoint.pt.1-1.tmp").write_bytes(b"half")
    fit(tiny, progress=False)
    assert sorted(os.listdir(folder)) == sorted(FILES)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of some megabytes in memory; give it its size again, or "ro", to change it."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        options = f"remount,{size}" if folder in mounted else size
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_costs_no_checkpoint(longer, whole, small_disk, tmp_path):
    runs = tmp_path / "runs"
    small_disk(runs, "size=45m")  # two checkpoints are 39 megabytes
    with pytest.raises(StorageError, match=r"cannot write .*checkpoint.pt \(No space left on device\): free some space"):
        fit(longer, progress=False, runs=runs)
    folder = find_run(longer, runs).folder
    steps = [torch.load(folder / f"checkpoint{name}.pt", weights_only=True)["state"]["step"] for name in ("", "-before")]
    assert steps == [6, 3]
    small_disk(runs, "size=200m")
    same(fit(longer, progress=False, runs=runs), whole)


def test_a_folder_that_becomes_read_only_costs_no_checkpoint(longer, whole, small_disk, tmp_path, monkeypatch):
    folder, step, calls = find_run(longer, tmp_path / "runs").folder, training._step, []
    small_disk(folder, "size=200m")

    def stepping(*arguments):
        calls.append(1)
        if len(calls) == 5:
            small_disk(folder, "ro")
        return step(*arguments)

    monkeypatch.setattr(training, "_step", stepping)
    with pytest.raises(StorageError, match=r"cannot write .*metrics.jsonl \(Read-only file system\): .*choose a writable"):
        fit(longer, progress=False, runs=tmp_path / "runs")
    small_disk(folder, "rw")
    assert len(calls) == 6
    same(fit(longer, progress=False, runs=tmp_path / "runs"), whole)
    assert len(calls) == 6 + 20 - 3
