import dataclasses
import json
import math
import os
import re
import resource
import subprocess
import sys
import typing

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import PartialState
from conftest import write_cub

from fgvc_lib import training
from fgvc_lib.config import PROFILES, RANGES, Experiment, runs_folder
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.views import eval_loader
from fgvc_lib.errors import ConfigError, DataError, StorageError, TrainingError
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.machine import options
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


@pytest.mark.parametrize("key", list(report_variants(PROFILES["smoke"])))
def test_every_variant_of_the_report_trains(tiny, key):
    sizes = {key: getattr(tiny, key) for key in ("data", "image_size", "resize_size", "batch_size", "steps", "warmup_steps")}
    run = fit(report_variants(Experiment(**sizes))[key].experiment, progress=False)
    assert run.metrics["loss"].notna().all()


def test_training_learns(tiny):
    run = fit(
        tiny.replace(model="resnet18", fusion=None, steps=30, batch_size=9, lr=0.05, checkpoint_every=30), progress=False
    )
    assert run.metrics["loss"].iloc[-3:].mean() < 0.5 * run.metrics["loss"].iloc[:3].mean()


@pytest.mark.parametrize("changes", [{"fusion": "mul"}, {"fusion": "mul", "contrastive": True}, {"model": "resnet18"}])
def test_training_in_bf16_is_tested_in_float32(tiny, changes, monkeypatch):
    seen, step = [], training._step
    monkeypatch.setattr(training, "_step", lambda *arguments: seen.append(step(*arguments)) or seen[-1])
    run = fit(tiny.replace(fusion=None, precision="bf16").replace(**changes), progress=False)
    assert run.metrics["loss"].notna().all()
    exact = fit(tiny.replace(fusion=None).replace(**changes), progress=False)
    assert run.metrics["loss"].iloc[0] != exact.metrics["loss"].iloc[0]  # it did train in bf16
    model = load_model(run)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    again = evaluate(model, eval_loader(open_splits(tiny)[1], run.experiment))
    np.testing.assert_allclose(again["probability"], run.predictions["probability"], atol=1e-6, rtol=0)


def test_pixels_that_lie_in_no_patch_are_said_once(tiny, capsys):
    options.say_once.cache_clear()
    for seed in (0, 1):
        fit(tiny.replace(image_size=34, seed=seed), progress=False)
    line = (
        "The model does not see the last 6 of the 34 pixels at the right and at the lower edge: no further patch fits "
        "there. That does no harm; an image_size of 28 or 40 leaves none over."
    )
    assert capsys.readouterr().err.splitlines() == [f"{tiny.data}: 3 classes, 9 training and 6 test images", line]
    for changes in ({"image_size": 28}, {"image_size": 34, "model": "resnet18", "fusion": None}):
        fit(tiny.replace(**changes), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("machine", "native", "said"), [("x86_64", False, 1), ("x86_64", True, 0), ("arm64", False, 0)])
def test_a_processor_that_emulates_bf16_is_said_once(tiny, monkeypatch, capsys, machine, native, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(options.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    options.say_once.cache_clear()
    for precision in ("no", "bf16", "bf16"):
        options.apply_options(tiny.replace(precision=precision), torch.nn.Identity())
    assert capsys.readouterr().err.count("emulates bf16") == said
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a version of torch that does not tell
    options.say_once.cache_clear()
    options.apply_options(tiny.replace(precision="bf16"), torch.nn.Identity())
    assert capsys.readouterr().err == ""


def test_a_gpu_without_bf16_is_refused_before_anything_is_written(tiny, runs, monkeypatch, capsys):
    supported = {True: True, False: False}  # including emulation, and without
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported[including_emulation])
    options.say_once.cache_clear()
    options.apply_options(tiny.replace(precision="bf16"), torch.nn.Identity())
    assert capsys.readouterr().err.count("emulates bf16") == 1
    supported[True] = False
    with pytest.raises(ConfigError, match="an old GPU cannot compute in bf16: set precision to no"):
        fit(tiny.replace(precision="bf16"), progress=False)
    assert not [path for path in runs.iterdir() if path.is_dir()]


def test_the_logged_learning_rate_is_that_of_the_step(tiny):
    run = fit(tiny, progress=False)
    wanted = [tiny.lr * learning_rate_factor(step, tiny) for step in range(tiny.steps)]
    assert run.metrics["lr"].tolist() == pytest.approx(wanted) and wanted[-1] > 0


def test_a_clip_norm_of_0_is_off(tiny):
    losses = {norm: fit(tiny.replace(clip_norm=norm), progress=False).metrics["loss"].tolist() for norm in (0.0, 1e5, 1e-4)}
    assert losses[0.0] == losses[1e5] != losses[1e-4]


@pytest.mark.parametrize("left", [{"LOCAL_RANK": "0"}, {"RANK": "3"}, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}])
def test_what_a_launcher_left_in_the_environment_does_no_harm(tiny, monkeypatch, left):
    PartialState._reset_state()  # as in a new process
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert fit(tiny, progress=False).finished
    assert all(os.environ[name] == value for name, value in left.items())


def test_the_lock_stays_for_those_who_wait_for_it(tiny, runs):
    folder = fit(tiny, progress=False).folder
    assert (runs / f".{folder.name}.lock").is_file()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("1 1 1 1 1 1", "no test images"),
        ("0 0 0 0 0 0", "training images"),
    ],
)
def test_data_without_images_of_a_split_is_refused_before_training(tmp_path, tiny, runs, split, words):
    root = write_cub(tmp_path / "empty", classes=2, train=2, test=1)
    lines = [f"{number} {one}" for number, one in enumerate(split.split(), 1)]
    (root / "train_test_split.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        fit(tiny.replace(data=str(root)), progress=False)
    assert not list(runs.glob("*/experiment.json"))


def test_one_class_is_refused_before_training(tmp_path, tiny, runs):
    with pytest.raises(DataError, match="of one class.*two classes or more"):
        fit(tiny.replace(data=str(write_cub(tmp_path / "one", classes=1))), progress=False)
    assert not list(runs.glob("*/experiment.json"))


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ("test", "no test images, 6 that cannot"),
        ("train", "no training images, 9 that"),
        ("Class_[23]", "one class, 10 that"),
    ],
)
def test_data_that_skip_broken_leaves_nothing_of(tiny, runs, spoiled, words):
    train, test = open_splits(tiny)
    paths = {"test": test.paths, "train": train.paths}.get(spoiled) or [
        path for path in (*train.paths, *test.paths) if re.search(spoiled, str(path))
    ]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=words):
        fit(tiny.replace(skip_broken=True), progress=False)
    assert not list(runs.glob("*/experiment.json"))


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
    assert "9 training and 5 test images; images that cannot be read left out: 1" in capsys.readouterr().err


def test_options_that_do_not_exist_or_go_together(tiny):
    with pytest.raises(ConfigError, match="'vgg'.*resnet18, efficientnet_lite0, vit_b16"):
        build_model(tiny.replace(model="vgg"), 3)
    with pytest.raises(ConfigError, match="resnet18 has none"):
        build_model(tiny.replace(model="resnet18"), 3)
    with pytest.raises(ConfigError, match="unknown fusion 'foo'"):
        fit(tiny.replace(fusion="foo"), progress=False)
    assert not list(runs_folder().glob("[!.]*"))  # a refused experiment leaves no folder behind
    with pytest.raises(ConfigError, match="colour.*profile, dataset"):
        tiny.replace(colour="red")
    with pytest.raises(ConfigError, match="'fp8'.*no, bf16"):
        tiny.replace(precision="fp8")
    with pytest.raises(ConfigError, match="resize_size 8 .*: no crop fits, choose --resize-size 32 or more, such as 36"):
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
    (folder,) = runs.glob("[!.]*")
    assert sorted(os.listdir(folder)) == ["experiment.json", "metrics.jsonl"]
    assert fit(tiny, progress=False).finished


def test_weights_start_the_model_and_count_in_the_hash(tiny, tmp_path, runs):
    source = build_model(tiny, 3)
    for number in (0, 1):
        torch.nn.init.constant_(source.head.bias, number)
        torch.save(source.state_dict(), tmp_path / "start.pt")
        fit(tiny.replace(weights=str(tmp_path / "start.pt")), progress=False)
    assert len(list(runs.glob("[!.]*"))) == 2


NUMBERS = {
    "lr": (0.0, -1.0, math.nan, math.inf), "momentum": (1.0, -0.1), "weight_decay": (-1.0,), "dropout": (1.0, 1.5),
    "label_smoothing": (1.5,), "clip_norm": (-1.0, math.nan), "workers": (-1,), "seed": (-1, 2**70), "batch_size": (0, 2.5),
    "steps": (0, "ten"), "image_size": (0,), "stride": (0,), "top_k": (0,), "rank": (0,), "log_every": (0,),
    "checkpoint_every": (0,), "warmup_steps": (-1,), "resize_size": (-5,),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NUMBERS.items() for value in values])
def test_numbers_out_of_their_range_are_refused_at_once(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is .*: it must be "):
        Experiment(**{name: value})


def test_the_pixels_that_a_file_of_weights_is_taken_to_want_are_said(tiny, tmp_path, capfd):
    torch.save(build_model(tiny, 2).state_dict(), path := tmp_path / "vit.pth")
    options.say_once.cache_clear()
    fit(tiny.replace(weights=str(path)), progress=False)
    said = capfd.readouterr()
    assert f"{path} is taken to want its pixels as Google's ViTs do" in said.out + said.err


def test_every_number_of_an_experiment_has_a_range():
    numbers = {name for name, kind in typing.get_type_hints(Experiment).items() if kind in (int, float, float | None)}
    assert numbers == set(RANGES)


def test_an_unknown_choice_is_not_taken_for_another():
    with pytest.raises(ConfigError, match="unknown optimizer 'adam': choose one of sgd, adamw"):
        Experiment(optimizer="adam")
    assert Experiment(lr=1) == Experiment(lr=1.0) and Experiment(lr=1).hash() == Experiment(lr=1.0).hash()


def test_a_new_option_renames_no_run():
    @dataclasses.dataclass(frozen=True)
    class Later(Experiment):
        novelty: int = 3

    assert Later().hash("a") == Experiment().hash("a") != Later(novelty=4).hash("a")


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


def test_the_classifier_has_a_rate_of_its_own(tiny):
    start = build_model(tiny, 3)
    optimizer = training.build_optimizer(start, tiny.replace(lr=1e-3, head_lr=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in start.named_parameters() if rates[id(p)] == 0.5} == {"head.weight", "head.bias"}
    assert len(rates) == len(list(start.parameters()))
    plain = fit(tiny, progress=False).metrics["loss"].tolist()
    assert plain == fit(tiny.replace(head_lr=tiny.lr), progress=False).metrics["loss"].tolist()
    assert plain != fit(tiny.replace(head_lr=0.5), progress=False).metrics["loss"].tolist()


def test_epochs_say_how_many_steps_there_are(tiny, monkeypatch):
    run = fit(tiny.replace(epochs=2, warmup_steps=1), progress=False)  # 9 images in batches of 4
    assert run.metrics["step"].iloc[-1] == 4 and run.experiment.epochs == 2
    photos = PROFILES["photos"]
    assert photos.on(1_200).warmup_steps == photos.warmup_steps
    few = photos.on(40)  # a small folder needs no other settings
    assert few.warmup_steps == few.steps // 2 > 0


def test_validation_holds_back_training_images_and_looks_at_no_test_image(tmp_path, tiny):
    root = write_cub(tmp_path / "more", train=10)
    experiment = tiny.replace(data=str(root))
    train, test = open_splits(experiment)
    rest, held = open_splits(experiment.replace(validation=True))
    assert sorted([*rest.ids, *held.ids]) == sorted(train.ids) and not set(held.ids) & set(test.ids)
    assert [held.labels.count(label) for label in range(3)] == [2, 2, 2]
    run = fit(experiment.replace(validation=True), progress=False)
    assert sorted(run.predictions["id"]) == sorted(held.ids)
    assert run.folder != fit(experiment, progress=False).folder


def test_a_batch_of_one_is_too_small_for_batch_normalisation(tiny):
    with pytest.raises(ConfigError, match="batch_size 1 is too small for resnet18 at 32 pixels"):
        fit(tiny.replace(model="resnet18", fusion=None, image_size=32, resize_size=32, batch_size=1), progress=False)


def test_checkpointing_changes_no_number(tiny, tmp_path, capsys):
    one = fit(tiny.replace(dropout=0.2), progress=False)
    same(one, fit(tiny.replace(dropout=0.2, checkpointing=True), progress=False, runs=tmp_path / "again"))
    options.say_once.cache_clear()
    for model in ("test_vit", "test_resnet"):
        changes = {"model": f"timm:{model}", "fusion": None, "image_size": 64, "resize_size": 72, "steps": 2}
        plain, spared = (
            fit(tiny.replace(**changes, checkpointing=on), progress=False, runs=tmp_path / str(on)) for on in (False, True)
        )
        assert plain.metrics["loss"].tolist() == pytest.approx(spared.metrics["loss"].tolist(), rel=1e-5)
    assert capsys.readouterr().err.count("batch normalisation counts each batch twice") == 1
    for model in ("resnet18", "timm:dla46_c"):
        with pytest.raises(ConfigError, match=f"{model} cannot do without its activations: set checkpointing to False"):
            fit(tiny.replace(model=model, fusion=None, checkpointing=True), progress=False)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"model": "resnet18", "fusion": None}])
def test_a_compiled_model_keeps_its_names_and_learns_the_same(tiny, tmp_path, monkeypatch, changes):
    plain, compiled, tiny = fit(tiny.replace(**changes), progress=False), [], tiny.replace(**changes, compile=True)
    compile = torch.compile

    def compiling(model):
        compiled.append(model)
        return compile(model, backend="aot_eager")  # which takes no C++ compiler

    monkeypatch.setattr(torch, "compile", compiling)
    run = fit(tiny, progress=False, runs=tmp_path / "compiled")
    assert len(compiled) == 2 and run.state_dict().keys() == plain.state_dict().keys()
    np.testing.assert_allclose(run.metrics["loss"], plain.metrics["loss"], rtol=1e-4)


def test_a_machine_without_a_compiler_is_told_so(tiny, monkeypatch):
    def missing(model):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ConfigError, match="nothing can be compiled here .No working C.. compiler found.: install"):
        fit(tiny.replace(compile=True), progress=False)
