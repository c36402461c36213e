"""Training on several processes and in several parts of a batch: the numbers of one process and of whole batches."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import write_cub

from fgvc_lib import training
from fgvc_lib.config import Experiment
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.datasets.draws import seed_of
from fgvc_lib.datasets.views import eval_loader
from fgvc_lib.errors import ConfigError, TrainingError
from fgvc_lib.evaluation import evaluate
from fgvc_lib.machine.options import say_once
from fgvc_lib.machine.processes import failures_named
from fgvc_lib.runs import FILES, find_run
from fgvc_lib.training import fit, load_model
from fgvc_lib.vit import VisionTransformer

LAUNCH = (
    sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
)  # fmt: skip
LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
FIT_TWO = """
import os, sys
from pathlib import Path
from fgvc_lib.config import Experiment
from fgvc_lib.training import fit
options = {"data": sys.argv[1], "image_size": 32, "resize_size": 36, "steps": 6, "log_every": 1, "checkpoint_every": 4}
for changes in ({"fusion": "mul", "stride": 12}, {"model": "resnet18"}):
    run = fit(Experiment(**options, **changes, batch_size=4, warmup_steps=1), progress=True, runs=Path(sys.argv[2]))
    again = fit(run.experiment, runs=Path(sys.argv[2]))
    Path(sys.argv[2], f"{run.folder.name}-{os.environ['RANK']}").write_text(repr(again))
"""


def same_curve(one, other):
    """Whether two runs have the same losses, but for rounding, and, if they were trained by SGD, end at the same weights.

    AdamW divides a gradient by its own size: where it is nothing but rounding, as that of the keys' biases, which no softmax
    sees, weights go anywhere, and the losses say all there is.
    """
    np.testing.assert_allclose(one.metrics["loss"], other.metrics["loss"], rtol=1e-4)
    pd.testing.assert_series_equal(one.metrics["accuracy"], other.metrics["accuracy"])
    weights = other.state_dict() if one.experiment.optimizer == "sgd" else {}
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, one.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def birds_of_odd_number(tmp_path_factory):
    """21 test images: in batches of 16, the last one is not full, and its images cannot be shared equally."""
    return write_cub(tmp_path_factory.mktemp("data") / "cub", test=7)


@pytest.fixture(scope="module")
def two(birds_of_odd_number, tmp_path_factory):
    """A folder of runs that two processes have trained, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "fit_two.py").write_text(FIT_TWO)
    command = [*LAUNCH, folder / "fit_two.py", birds_of_odd_number, folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"ACCELERATE_USE_CPU": "1"})
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stderr


@pytest.mark.parametrize("changes", [{"fusion": "mul", "stride": 12}, {"model": "resnet18"}])
def test_two_processes_train_one_model(two, birds_of_odd_number, tmp_path, changes):
    folder, said = two
    options = {"data": str(birds_of_odd_number), "image_size": 32, "resize_size": 36, "steps": 6, "log_every": 1}
    experiment = Experiment(**options, **changes, batch_size=4, warmup_steps=1, checkpoint_every=4)
    run = find_run(experiment, folder)
    assert {path.name for path in run.folder.iterdir()} == set(FILES) and run.environment["processes"] == 2
    assert {(folder / f"{run.folder.name}-{rank}").read_text() for rank in "01"} == {repr(run)}
    assert said.count("21 test images") == 1 and said.count("0/6 [") == 2  # where the two bars begin
    if "model" not in changes:  # whose batch normalisation sees other images
        same_curve(run, fit(experiment, progress=False, runs=tmp_path))
    assert said.count("Batch normalisation sees 2 images at a time, not the 4") == 1

    alone = evaluate(load_model(run), eval_loader(open_splits(experiment)[1], experiment))  # on the same weights
    exact = ["label", "prediction", "parts"]
    pd.testing.assert_frame_equal(run.predictions[exact], alone[exact], check_dtype=False)
    np.testing.assert_allclose(run.predictions["probability"], alone["probability"], atol=1e-6)
    assert run.predictions["id"].tolist() == open_splits(experiment)[1].ids


def test_a_training_of_two_resumes_after_one_was_killed(birds_of_odd_number, tmp_path):
    experiment = Experiment(
        data=str(birds_of_odd_number), image_size=32, resize_size=36, batch_size=4, steps=40, warmup_steps=1, log_every=2,
        checkpoint_every=2, stride=12, fusion="mul",
    )  # fmt: skip
    names = ("data", "image_size", "resize_size", "batch_size", "steps", "warmup_steps", "log_every", "checkpoint_every")
    options = [f"--{name.replace('_', '-')}={getattr(experiment, name)}" for name in (*names, "stride", "fusion")]
    command = [*LAUNCH, "-m", "fgvc_lib", "train", "--weights=", *options]
    environment = os.environ | {"RUNS": str(tmp_path / "runs"), "PROFILE": "quick", "DATA": "", "ACCELERATE_USE_CPU": "1"}
    run = find_run(experiment, tmp_path / "runs")
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as launcher:
        until = time.monotonic() + 120
        while not (run.folder / "checkpoint-before.pt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        (second,) = [
            child
            for child in psutil.Process(launcher.pid).children(recursive=True)
            if child.environ().get("RANK") == "1" and "fgvc_lib" in child.cmdline()
        ]
        second.kill()
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and not run.finished
    assert "error: another process of this training has ended: see what it said" in errors or "SIGTERM" in errors
    saved = torch.load(run.folder / "checkpoint.pt", weights_only=True)["state"]["step"]
    assert 2 < saved < 40
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("The run is in") == 1 and "cannot be used" not in again.stdout
    assert run.finished and run.environment["processes"] == 2
    same_curve(find_run(experiment, tmp_path / "runs"), fit(experiment, progress=False, runs=tmp_path / "one"))


@pytest.mark.parametrize("changes", [{"fusion": "mul"}, {"fusion": None, "optimizer": "adamw", "lr": 1e-3}])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(tiny, tmp_path, changes, monkeypatch):
    tiny = tiny.replace(**changes, steps=6, log_every=2)
    seen, step = [], training._step
    monkeypatch.setattr(training, "_step", lambda *arguments: seen.append(len(arguments[1])) or step(*arguments))
    one = fit(tiny, progress=False)
    parts = fit(tiny.replace(accumulate=4), progress=False, runs=tmp_path / "parts")
    assert seen == [4] * 6 + [1] * 24 and len(parts.metrics) == 3
    same_curve(one, parts)


def test_a_run_in_parts_resumes_in_other_parts(tiny, tmp_path, monkeypatch):
    step, calls = training._step, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > 7:  # of step 4
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny.replace(accumulate=2), progress=False)
    monkeypatch.setattr(training, "_step", step)
    same_curve(fit(tiny.replace(accumulate=4), progress=False), fit(tiny, progress=False, runs=tmp_path / "whole"))


def test_every_share_of_a_batch_draws_its_own_numbers(tiny, monkeypatch, tmp_path):
    assert seed_of(7, 1, 3) == seed_of(7, 1, 3, 0)  # the first share's are those of the whole batch
    drawn = {}

    def drawing(model, images, labels, experiment):
        drawn.setdefault(experiment.accumulate, []).append(torch.rand(()).item())
        return step(model, images, labels, experiment)

    step = training._step
    monkeypatch.setattr(training, "_step", drawing)
    for parts in (1, 2):
        fit(tiny.replace(accumulate=parts), progress=False, runs=tmp_path / str(parts))
    assert drawn[2][::2] == drawn[1] and len(set(drawn[2])) == 8


def test_how_it_is_computed_names_no_other_run(tiny):
    assert tiny.replace(accumulate=2, checkpointing=True, compile=True).hash("a") == tiny.hash("a")


def test_what_cannot_be_shared_is_refused(tiny, runs, monkeypatch):
    with pytest.raises(ConfigError, match="batch_size 4 .* by 1 process with accumulate 3: make batch_size a multiple of 3"):
        fit(tiny.replace(accumulate=3), progress=False)
    with pytest.raises(ConfigError, match="contrastive loss is of all pairs of a batch: set accumulate to 1"):
        fit(tiny.replace(accumulate=2, contrastive=True), progress=False)
    for name, value in (LAUNCHED | {"WORLD_SIZE": "3"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match="batch_size 4 .* by 3 processes with accumulate 1: make batch_size a multiple of 3"
    ):
        fit(tiny, progress=False)
    assert not runs.exists()


def test_more_processes_than_gpus_are_refused(tiny, monkeypatch):
    for name, value in (LAUNCHED | {"LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes are started on a machine with 1 GPUs: start no more than that"):
        fit(tiny, progress=False)


def test_processes_of_another_launcher_are_refused(tiny, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match="a launcher of MPI .*: start them with `accelerate launch --multi_gpu"):
        fit(tiny, progress=False)


@pytest.mark.parametrize("options", [["--cpu"], []])
def test_one_process_where_several_were_asked_for_is_refused(options, tmp_path):
    command = [*LAUNCH[:4], *options, "--num_processes", "2", *LAUNCH[7:], "-m", "fgvc_lib", "train"]
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment |= {"RUNS": str(tmp_path), "PROFILE": "smoke", "DATA": "", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0 and not list(tmp_path.iterdir())
    assert "error: `accelerate launch` was asked for several processes and started one: start them with `accel" in ran.stderr


def test_batch_normalisation_is_said_to_see_parts(tiny, capsys):
    say_once.cache_clear()
    for parts in (1, 2):
        fit(tiny.replace(model="resnet18", fusion=None, accumulate=parts, seed=parts), progress=False)
    assert capsys.readouterr().err.count("Batch normalisation sees 2 images at a time, not the 4 of a batch") == 1


def test_fewer_images_than_a_batch_are_said(tiny, capsys):
    say_once.cache_clear()
    assert fit(tiny.replace(batch_size=16), progress=False).finished
    assert "A batch of 16 holds some of the 9 training images more than once." in capsys.readouterr().err


def raising(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("embed", [raising, lambda *_: torch.empty(2**50)])  # the second is refused by the CPU's allocator
def test_too_little_memory_is_answered_with_what_to_try(tiny, monkeypatch, embed):
    monkeypatch.setattr(VisionTransformer, "embed", embed)
    words = (
        "not enough memory for vit_micro16 .* with batch_size 4, accumulate 1 and checkpointing False: set accumulate to 2"
    )
    with pytest.raises(TrainingError, match=words):
        fit(tiny, progress=False)


def test_other_failures_keep_their_words(tiny):
    for reason in ("a bug", "DataLoader worker: cannot allocate memory"):
        with pytest.raises(RuntimeError, match=reason), failures_named(tiny):
            raise RuntimeError(reason)
    with pytest.raises(TrainingError, match="another process .* has ended"), failures_named(tiny):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
