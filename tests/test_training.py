import json
import os
import resource
import subprocess
import sys

import pandas as pd
import pytest
import torch

from fgvc_lib import training
from fgvc_lib.config import PROFILES, Experiment, runs_folder
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.views import eval_loader
from fgvc_lib.errors import ConfigError, DataError, StorageError, TrainingError
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.runs import FILES
from fgvc_lib.training import build_model, contrastive_loss, evaluate, fit, learning_rate_factor, load_model


def same(one, other):
    pd.testing.assert_frame_equal(one.predictions, other.predictions)
    columns = ["step", "loss", "accuracy", "lr", "test_accuracy"]
    pd.testing.assert_frame_equal(one.metrics[columns], other.metrics[columns])


def test_a_run_that_another_process_writes_is_left_alone(tiny, runs):
    folder = training.find_run(tiny).folder
    runs.mkdir()
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, runs / f".{folder.name}.lock"], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(StorageError, match=f"another process is writing the run .*{folder.name}"):
            fit(tiny, progress=False)
        assert not any(folder.iterdir())
        other.communicate(b"\n")
    assert fit(tiny, progress=False).finished


def test_a_run_is_whole_and_is_not_computed_again(tiny, monkeypatch):
    run = fit(tiny, progress=False)
    assert sorted(os.listdir(run.folder)) == sorted(FILES)
    assert run.experiment == tiny and len(run.metrics) == 4
    assert run.metrics["test_accuracy"].notna().tolist() == [False, True, False, True]
    assert run.predictions.columns.tolist() == ["id", "label", "prediction", "probability", "parts"]
    assert len(run.predictions) == 6 and all(len(parts) == 4 for parts in run.predictions["parts"])
    assert run.correct.mean() == pytest.approx(run.metrics["test_accuracy"].iloc[-1])
    assert {"device", "threads", "seconds", "versions", "parameters"} <= set(run.environment)
    monkeypatch.setattr(training, "_train", None)
    assert fit(tiny).folder == run.folder


def test_same_experiment_same_numbers(tiny, monkeypatch, tmp_path):
    one = fit(tiny, progress=False)
    monkeypatch.setenv("RUNS", str(tmp_path / "again"))
    same(one, fit(tiny.replace(workers=2), progress=False))


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_result(tiny, monkeypatch, tmp_path, stop):
    tiny = tiny.replace(dropout=0.3)
    one = fit(tiny, progress=False)
    monkeypatch.setenv("RUNS", str(tmp_path / "again"))
    step, calls = training._step, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, progress=False)
    calls.clear()
    monkeypatch.setattr(training, "_step", lambda *arguments: calls.append(1) or step(*arguments))
    same(one, fit(tiny, progress=False))
    assert len(calls) == (4 if stop < 2 else 2)


def test_the_trained_model_comes_back(tiny):
    run = fit(tiny, progress=False)
    model = load_model(run)
    predictions = evaluate(model, eval_loader(open_splits(tiny)[1], tiny))
    assert predictions["prediction"].tolist() == run.predictions["prediction"].tolist()
    assert not model.training


@pytest.mark.parametrize("name", list(report_variants(PROFILES["smoke"])))
def test_every_row_of_the_report_trains(tiny, name):
    sizes = {key: getattr(tiny, key) for key in ("data", "image_size", "resize_size", "batch_size", "steps", "warmup_steps")}
    run = fit(report_variants(Experiment(**sizes))[name], progress=False)
    assert run.metrics["loss"].notna().all()


def test_training_learns(tiny):
    run = fit(
        tiny.replace(model="resnet18", fusion=None, steps=30, batch_size=9, lr=0.05, checkpoint_every=30), progress=False
    )
    assert run.metrics["loss"].iloc[-3:].mean() < 0.5 * run.metrics["loss"].iloc[:3].mean()


def test_bf16(tiny):
    assert fit(tiny.replace(precision="bf16"), progress=False).metrics["loss"].notna().all()


def test_the_schedule():
    experiment = Experiment(steps=100, warmup_steps=10)
    rates = [learning_rate_factor(step, experiment) for step in range(101)]
    assert rates[0] < rates[5] < rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == 0


def test_contrastive_loss_by_hand():
    tokens = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    # pairs of one class: cos 1, so 0; pairs of two classes: cos 0.7071, four of them
    expected = 4 * (0.5**0.5 - 0.4) / 9
    assert contrastive_loss(tokens, torch.tensor([0, 0, 1])).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).item() == pytest.approx(2 / 4)


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tiny, monkeypatch, runs):
    step, calls = training._step, []

    def exploding(*arguments):
        calls.append(1)
        loss, correct = step(*arguments)
        return loss * (float("nan") if len(calls) == 3 else 1), correct

    monkeypatch.setattr(training, "_step", exploding)
    with pytest.raises(TrainingError, match="loss is nan at step 3"):
        fit(tiny.replace(log_every=4), progress=False)
    (checkpoint,) = runs.glob("*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["state"]["step"] == 2


def test_a_truncated_image_stops_before_training_or_is_skipped(tiny, runs, capsys):
    path = CUB200(tiny.data, "test").paths[1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{path.name}.*skip_broken"):
        fit(tiny, progress=False)
    assert not list(runs.glob("*/checkpoint.pt"))
    run = fit(tiny.replace(skip_broken=True), progress=False)
    assert run.environment["skipped"] == 1 and len(run.predictions) == 5
    assert "Skipped 1 image" in capsys.readouterr().out


def test_options_that_do_not_exist_or_go_together(tiny):
    with pytest.raises(ConfigError, match="'vgg'.*resnet18, efficientnet_lite0, vit_b16"):
        build_model(tiny.replace(model="vgg"), 3)
    with pytest.raises(ConfigError, match="resnet18 has none"):
        build_model(tiny.replace(model="resnet18"), 3)
    with pytest.raises(ConfigError, match="unknown fusion 'foo'"):
        fit(tiny.replace(fusion="foo"), progress=False)
    assert not list(runs_folder().glob("*"))  # a refused experiment leaves no folder behind
    with pytest.raises(ConfigError, match="colour.*profile, dataset"):
        tiny.replace(colour="red")
    with pytest.raises(ConfigError, match="'fp8'.*no, bf16"):
        tiny.replace(precision="fp8")
    with pytest.raises(ConfigError, match="resize_size 8"):
        tiny.replace(resize_size=8)
    with pytest.raises(ConfigError, match="steps is 0"):
        tiny.replace(steps=0)


def test_an_unwritable_folder(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNS", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write .*choose a writable folder"):
        fit(tiny, progress=False)


def test_a_full_disk_leaves_no_half_file(tiny, runs):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # no file may outgrow it: a disk that is full
    try:
        with pytest.raises(StorageError, match=r"cannot write .*checkpoint.pt \(File too large\)"):
            fit(tiny, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (folder,) = runs.iterdir()
    assert sorted(os.listdir(folder)) == ["experiment.json", "metrics.jsonl"]
    assert fit(tiny, progress=False).finished


def test_weights_start_the_model_and_count_in_the_hash(tiny, tmp_path, runs):
    source = build_model(tiny, 3)
    for number in (0, 1):
        torch.nn.init.constant_(source.head.bias, number)
        torch.save(source.state_dict(), tmp_path / "start.pt")
        fit(tiny.replace(weights=str(tmp_path / "start.pt")), progress=False)
    assert len(list(runs.iterdir())) == 2


def test_the_hash_is_of_what_comes_out():
    experiment = Experiment()
    assert experiment.hash("a") == experiment.replace(workers=4, data="elsewhere").hash("a")
    assert len({experiment.hash("a"), experiment.hash("b"), experiment.replace(seed=1).hash("a")}) == 3
    assert json.loads(json.dumps(vars(experiment)))


def test_a_warm_up_longer_than_the_training_is_refused(tiny):
    with pytest.raises(ConfigError, match="warmup_steps 9 .* steps, 4"):
        tiny.replace(warmup_steps=9)


def test_efficientnet_with_and_without_its_weights(tiny):
    pytest.importorskip("efficientnet_lite_pytorch")
    rows = [tiny.replace(model="efficientnet_lite0", fusion=None, weights=weights) for weights in ("imagenet", "")]
    torch.manual_seed(0)
    trained, fresh = (build_model(row, 3).eval() for row in rows)
    images = torch.randn(2, 3, 32, 32)
    assert trained(images).shape == (2, 3) and not torch.allclose(trained(images), fresh(images))
    assert torch.equal(trained._conv_stem.weight, build_model(rows[0], 5)._conv_stem.weight)
    assert rows[0].hash() != rows[1].hash() and fit(rows[1], progress=False).finished
