"""`fit` trains an experiment into a run's folder and `evaluate` tests a model, on Hugging Face Accelerate."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from torch import nn
from tqdm import tqdm

from .cnn import CNNS, classifier_parameters, efficientnet_lite0, resnet18, timm_model
from .config import Experiment
from .datasets import Draws, eval_loader, found, open_splits, seed_of, train_loader, workers_watched
from .errors import ConfigError, DataError, StorageError, TrainingError, nearest
from .evaluation import accuracy, evaluate
from .files import set_aside, write_whole
from .machine.checkpoints import delete_checkpoints, resume, save_checkpoint, terminating
from .machine.device import environment, seed_device
from .machine.folder import locked
from .machine.options import apply_options, say_once
from .machine.processes import failures_named, join
from .runs import Run, find_run
from .vit import PRESETS, VisionTransformer
from .weights import load_pretrained, source_of, weights_checksum, weights_file

MODELS = (*CNNS, *PRESETS)
MARGIN = 0.4  # TransFG, section 4.1: negatives closer than this cosine are pushed apart


def build_model(experiment: Experiment, num_classes: int) -> nn.Module:
    """The experiment's model, its pre-trained weights loaded; the rest initialised from torch's random state.

    Raises ConfigError, listing the known models, for an unknown one, and for options that do not go together.
    """
    if experiment.model not in MODELS and not experiment.model.startswith("timm:"):
        like = nearest(experiment.model, MODELS)
        known = f"{', '.join(MODELS)}, or timm:NAME for one of timm's"
        raise ConfigError(f"unknown model {experiment.model!r}{like}: choose one of {known}")
    source = source_of(experiment)
    if experiment.model not in PRESETS:
        if experiment.fusion or experiment.contrastive or experiment.head != "cls":
            known = "fusion, head and contrastive are options of this library's ViTs"
            way = "choose one, as in --model vit_s16, which also takes --weights timm:NAME"
            raise ConfigError(f"{known}: {experiment.model} has none of them, {way}")
        if experiment.model == "efficientnet_lite0":
            return efficientnet_lite0(num_classes, experiment.image_size, pretrained=bool(experiment.weights))
        if experiment.model != "resnet18":
            return timm_model(experiment, num_classes)
        model = resnet18(num_classes)
    else:
        names = ("image_size", "stride", "fusion", "top_k", "rank", "head", "dropout")
        options = {name: getattr(experiment, name) for name in names}
        model = VisionTransformer(PRESETS[experiment.model].replace(num_classes=num_classes, **options))
    if experiment.weights:
        load_pretrained(model, weights_file(experiment), experiment.init_last_block, source.positions)
    return model


def load_model(run: Run) -> nn.Module:
    """The trained model of a finished run, in evaluation mode, on the CPU.

    Raises DataError for a run whose files cannot be used, or whose weights are another model's.
    """
    state, described = run.state_dict(), (run.experiment.replace(weights=""), run.environment["classes"])
    with torch.device("meta"):  # whatever the sizes, it takes no memory
        wanted = build_model(*described).state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in wanted.items()}:
        raise DataError(f"{run.folder} holds the weights of another model than its experiment's: train it again")
    model = build_model(*described)
    model.load_state_dict(state)
    return model.eval()


@workers_watched()
def fit(experiment: Experiment, progress: bool = True, runs: Path | None = None) -> Run:
    """Train, test, and keep the result in runs/<hash>/. A finished run is returned as it is, an interrupted one resumed.

    What cannot be used of a run is set aside with a word, and made again. On SIGTERM a checkpoint is written first.
    Processes that `accelerate launch` has started train one model together: each takes its share of every batch, the first
    alone writes and prints, and all return the run. But for rounding its numbers are those of one process, and so are
    those of a batch in `accumulate` parts; only batch normalisation and what is drawn at random inside the model, which is
    dropout and fusion "random", go by the share.
    runs: another folder than the project's own to keep it in.
    Raises DataError before training starts if data cannot be used; ConfigError for options that do not go together;
    TrainingError if there is not enough memory or, naming the step, if the loss is not finite (the last checkpoint is kept);
    StorageError if the folder cannot be written or another training writes to it.
    """
    accelerator = join(experiment)
    with contextlib.ExitStack() as ending, failures_named(experiment):
        if not accelerator.is_main_process:
            for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                ending.enter_context(redirect(io.StringIO()))
        with accelerator.main_process_first():  # here and below: the others find drawn, fetched and decoded what they need
            train, test = open_splits(experiment)
            run = find_run(experiment, runs, train.fingerprint)
        (todo,) = broadcast_object_list([accelerator.is_main_process and ending.enter_context(_writing(run))])
        if not run.folder.is_dir():
            raise StorageError(f"a process does not see {run.folder}: set RUNS to a folder that all machines share")
        if todo:
            _fit(experiment, run, train, test, accelerator, progress)
            accelerator.wait_for_everyone()
        return Run(run.folder)


@contextlib.contextmanager
def _writing(run):
    """Lock a run's folder and rid it of what cannot be used. Gives whether there is anything left to do."""
    if run.finished and not run.damaged():
        yield False
        return
    with locked(run.folder):
        bad = run.damaged()
        if said := [set_aside(run.folder / name, reason) for name, reason in bad.items()]:
            print(f"In {run.folder}, {', '.join(said)}: it is made again.", flush=True)
        yield bool(bad) or not run.finished  # finished by another process, just now


def _fit(experiment, run, train, test, accelerator, progress):
    torch.manual_seed(experiment.seed)
    with accelerator.main_process_first():
        model = build_model(experiment, len(train.classes))
        say_once(found(train, test))
        train.check()
        test.check()
        _remark(experiment, model)
        apply_options(experiment, model, experiment.accumulate * accelerator.num_processes)
        if len(train) < experiment.batch_size:
            say_once(f"A batch of {experiment.batch_size} holds some of the {len(train)} training images more than once.")
        tests = accelerator.prepare_data_loader(eval_loader(test, experiment))
    described = json.dumps(dataclasses.asdict(experiment), indent=1).encode()
    if accelerator.is_main_process:
        write_whole(run.folder / "experiment.json", described)

    with terminating() as terminated:
        state = _train(experiment.on(len(train)), model, accelerator, train, tests, run.folder, progress, terminated)

    torch.manual_seed(experiment.seed)  # patches that are chosen at random are the same whenever the run is looked at
    predictions = evaluate(model, tests, accelerator)
    if not accelerator.is_main_process:
        return
    predictions.insert(0, "id", test.ids)
    state["history"][-1]["test_accuracy"] = accuracy(predictions)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files = {
        "experiment.json": described, "metrics.jsonl": _lines(state["history"]),
        "predictions.parquet": predictions.to_parquet(), "model.safetensors": safetensors.torch.save(tensors),
    }  # fmt: skip
    record = {
        "classes": len(train.classes), "class_names": train.classes, "skipped": train.skipped + test.skipped,
        "data": train.fingerprint, "weights": weights_checksum(experiment),
        "run": run.folder.name, "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "parameters": sum(p.numel() for p in model.parameters()), "processes": accelerator.num_processes,
        "seconds": state["seconds"], "step_ms": 1e3 * float(np.median(state["step_seconds"])),
        **environment(accelerator.device),
    }  # fmt: skip
    for name, content in (files | {"environment.json": json.dumps(record, indent=1)}).items():
        write_whole(run.folder / name, content)
    delete_checkpoints(run.folder)


def _remark(experiment, model):
    """Say what is taken for granted of weights, and which pixels a ViT does not see."""
    weights = experiment.weights
    if (
        experiment.model in PRESETS
        and weights not in ("", "dinov2")
        and not (weights.startswith("timm:") or weights.endswith(".npz"))
    ):
        say_once(
            f"{weights} is taken to want its pixels as Google's ViTs do, with a mean and std of 0.5; those of DeiT, MAE, "
            "torchvision and DINOv2 want ImageNet's: they are timm:NAME by name."
        )
    if isinstance(model, VisionTransformer) and (unseen := model.cfg.unseen):
        whole = experiment.image_size - unseen
        say_once(
            f"The model does not see the last {unseen} of the {experiment.image_size} pixels at the right and at the lower "
            f"edge: no further patch fits there. That does no harm; an image_size of {whole} or {whole + experiment.stride} "
            "leaves none over."
        )


def _train(experiment, model, accelerator, train, tests, folder, progress, terminated):
    """Optimise `model` in place, from the last checkpoint if there is one -> the state of the loop.

    tests: the prepared loader of the test images. terminated: an event; once it is set, the process ends with a checkpoint
    of the step under way, or several together with one of the next step that is logged.
    """
    optimizer = build_optimizer(model.to(accelerator.device), experiment)  # where a checkpoint's momenta go, too
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, experiment))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    # recent: (loss, correct) of each step since the last log line, on the device, since reading them waits for it
    state = {"step": 0, "seconds": 0.0, "step_seconds": [], "history": [], "recent": []}
    with accelerator.main_process_first():  # it sets damaged checkpoints aside
        resume(folder, parts, state, accelerator.device)
        loader = train_loader(train, experiment, Draws(len(train), experiment, state["step"]))
    # The optimiser stays torch's own: Accelerate's wrapper costs time at each step, and is for engines that `join` refuses.
    prepared, loader = accelerator.prepare(model, loader)
    if experiment.compile:
        prepared = torch.compile(prepared)

    prepared.train()
    shown = {"desc": experiment.title, "unit": "step", "leave": False, "mininterval": 1.0, "disable": not progress}
    bar = tqdm(total=experiment.steps, initial=state["step"], **shown)
    first, started, shares = state["step"], time.perf_counter(), []
    for images, labels in loader:
        # Dropout and random patches are as after a resume, and another draw in each share of the batch.
        share = len(shares) * accelerator.num_processes + accelerator.process_index
        seed_device(seed_of(experiment.seed, 1, state["step"], share), accelerator.device)
        with accelerator.accumulate(prepared):  # the processes' gradients are averaged with the last share only
            loss, correct = _step(prepared, images, labels, experiment)
            accelerator.backward(loss)
        shares.append((loss.detach(), correct))
        if not accelerator.sync_gradients:
            continue
        if experiment.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), experiment.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        lr = schedule.get_last_lr()[0]  # of this step; the schedule moves on to the next one's
        schedule.step()
        state["recent"].append(tuple(sum(column) / len(shares) for column in zip(*shares, strict=True)))
        shares = []
        state["step"] += 1
        bar.update()
        step = state["step"]
        saving = step % experiment.checkpoint_every == 0 or step == experiment.steps
        logging, stopping = saving or step % experiment.log_every == 0, terminated.is_set()
        if accelerator.num_processes > 1:  # they stop at one step or wait for each other for ever; asking takes time
            if stopping:
                accelerator.set_trigger()
            stopping = logging and accelerator.check_trigger()
        if not (logging or stopping):
            continue
        line = _log_line(state["recent"], step, experiment, accelerator) | {"lr": lr}
        seconds = time.perf_counter() - started
        state["seconds"] += seconds
        state["step_seconds"].append(seconds / (step - first))
        if logging:
            bar.set_postfix(loss=f"{line['loss']:.2f}", train_acc=f"{line['accuracy']:.0%}")
            state["history"].append(line | {"seconds": state["seconds"]})
            state["recent"] = []
        if saving and step < experiment.steps:  # the last test is `fit`'s
            state["history"][-1]["test_accuracy"] = accuracy(evaluate(model, tests, accelerator))
        if accelerator.is_main_process:
            if saving:
                write_whole(folder / "metrics.jsonl", _lines(state["history"]))
            if saving or stopping:
                save_checkpoint(folder, {name: part.state_dict() for name, part in parts.items()} | {"state": state})
        if stopping:
            accelerator.wait_for_everyone()
            bar.close()
            print(f"Stopped by SIGTERM after step {step}; the same command goes on from there.", flush=True)
            raise SystemExit(128 + signal.SIGTERM)
        first, started = step, time.perf_counter()
    bar.close()
    return state


def _log_line(recent, step, experiment, accelerator):
    """Means over the steps since the last line. Raises TrainingError, naming the step, for a loss that is not finite."""
    columns = (torch.stack(column) for column in zip(*recent, strict=True))
    losses, correct = (accelerator.reduce(column, "mean").tolist() for column in columns)
    for offset, loss in enumerate(losses, 1 - len(losses)):
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step + offset} of {experiment.title}: lower lr or clip_norm; "
                "the last good checkpoint is kept"
            )
    return {"step": step, "loss": float(np.mean(losses)), "accuracy": float(np.mean(correct))}


def _lines(history):
    return "".join(json.dumps(line) + "\n" for line in history).encode()


def build_optimizer(model: nn.Module, experiment: Experiment) -> torch.optim.Optimizer:
    """The experiment's optimiser for a model, the classifier in a group of its own."""
    head = classifier_parameters(model)
    rest = [parameter for parameter in model.parameters() if not any(parameter is other for other in head)]
    groups = [{"params": rest}, {"params": head, "lr": experiment.head_lr or experiment.lr}]
    options = {"lr": experiment.lr, "weight_decay": experiment.weight_decay, "fused": True}
    if experiment.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=experiment.momentum, **options)


def learning_rate_factor(step: int, experiment: Experiment) -> float:
    """Share of the peak learning rate after `step` steps: linear warm-up, then half a cosine to 0."""
    if step < experiment.warmup_steps:
        return (step + 1) / (experiment.warmup_steps + 1)
    done = (step - experiment.warmup_steps) / max(1, experiment.steps - experiment.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _step(model, images, labels, experiment):
    """One forward pass -> the loss and the share of the batch that was right, both on the device."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=experiment.precision == "bf16"):
        tokens = model.forward_features(images) if experiment.contrastive else None
        try:
            logits = model(images) if tokens is None else model.forward_head(tokens)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(  # torch's batch normalisation has nothing to take a deviation of
                f"batch_size {len(images)} is too small for {experiment.title} at {experiment.image_size} pixels: its batch "
                "normalisation needs two images or a larger image"
            ) from error
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=experiment.label_smoothing)
    if tokens is not None:
        loss = loss + contrastive_loss(tokens[:, 0], labels)
    return loss, (logits.detach().argmax(-1) == labels).float().mean()


def contrastive_loss(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """TransFG's contrastive loss (He et al. 2022, eq. 9).

    tokens: (B, D) class tokens. labels: (B,). Pairs of one class cost 1 - cos, pairs of two classes
    max(cos - MARGIN, 0); summed over all pairs and divided by B squared. Returns a scalar.
    """
    tokens = F.normalize(tokens.float(), dim=-1)
    cosine = tokens @ tokens.T
    same = labels[:, None] == labels[None, :]
    return torch.where(same, 1 - cosine, F.relu(cosine - MARGIN)).mean()
