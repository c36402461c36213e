"""What a training loop costs beyond its steps: `fit`'s own, beside the bare step and a loop of timm's parts."""

import contextlib
import copy
import io
import itertools
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from ..config import Experiment
from ..datasets import Draws, ImageSet, normalisation, open_splits, train_loader
from ..machine.device import best_device
from ..training import build_model, build_optimizer, fit
from .bench import ratio_interval

LOOPS = {"bare": "the step alone", "fit": "fit's loop", "timm": "a loop of timm's parts"}
STEPS = 20  # of each loop in a round


def measure_loops(experiment: Experiment, rounds: int, steps: int = STEPS) -> pd.DataFrame:
    """Train for `steps` steps in each of three ways, one after the other in every round, in an order of chance.

    bare: forward, backward, clipping and optimiser, again and again on one batch that lies on the device.
    fit: the library's own loop, from the first image read to the last line logged, without tests and checkpoints.
    timm: the loop of timm's train.py, which is no part of its package, put together from the parts that are; see
    `timm_seconds`. Left out where timm is not installed.
    Returns one row per way: loop, images_s (median, per second), ratio (of the median time to that of `bare`), low and high
    (95% interval of the ratio, see `bench.ratio_interval`).
    Raises what `fit` raises.
    """
    experiment = experiment.replace(epochs=0.0, steps=steps, warmup_steps=0, checkpoint_every=steps, accumulate=1)
    train, _ = open_splits(experiment)
    batch = next(iter(train_loader(train, experiment, Draws(len(train), experiment, 0))))
    ways = {
        "bare": lambda: bare_seconds(experiment, *_device_and_model(experiment, train), batch),
        "fit": lambda: fit_seconds(experiment),
        "timm": lambda: timm_seconds(experiment, *_device_and_model(experiment, train), train),
    }
    try:
        import timm  # noqa: F401
    except ImportError:
        del ways["timm"]
    seconds = {name: [] for name in ways}
    for turn in trange(rounds + 1, desc="training loops", unit="round"):
        for name in random.Random(turn).sample(list(ways), len(ways)):  # what one leaves in the caches favours no other
            seconds[name].append(ways[name]())
    times = {name: np.array(found[1:]) for name, found in seconds.items()}  # the first round is not counted
    rows = []
    for name, found in times.items():
        low, high = ratio_interval(found, times["bare"])
        median = np.median(found)
        ratio = median / np.median(times["bare"])
        images = steps * experiment.batch_size / median
        rows.append({"loop": name, "images_s": images, "ratio": ratio, "low": low, "high": high})
    return pd.DataFrame(rows)


def _device_and_model(experiment, train):
    device = best_device()
    return device, build_model(experiment, len(train.classes)).to(device).train()


def bare_seconds(
    experiment: Experiment, device: torch.device, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Seconds of the experiment's steps on one batch, images (B, 3, S, S) and labels (B,)."""
    optimizer = build_optimizer(model, experiment)
    images, labels = (tensor.to(device) for tensor in batch)
    start = _clock(device)
    for _ in range(experiment.steps):
        _forward(experiment, model, images, labels).backward()
        if experiment.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), experiment.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return _clock(device) - start


def fit_seconds(experiment: Experiment) -> float:
    """Seconds that the loop of `fit` takes for the experiment's steps."""
    with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # its bar is drawn, and not seen
        return fit(experiment, runs=Path(folder)).environment["seconds"]


def timm_seconds(experiment: Experiment, device: torch.device, model: nn.Module, train: ImageSet) -> float:
    """Seconds of the experiment's steps in a loop such as that of timm's train.py.

    Loader, random views, optimiser, clipping and meters are timm's, and the loss is read at every step that logs. The model
    and the data are ours; timm decodes each image when it needs it, and crops and flips it in its own way.
    """
    from timm.data import create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter, dispatch_clip_grad

    mean, std = normalisation(experiment)
    options = {"opt": experiment.optimizer, "lr": experiment.lr, "weight_decay": experiment.weight_decay}
    optimizer = create_optimizer_v2(model, momentum=experiment.momentum, **options)
    loader = create_loader(
        copy.copy(train), (3, experiment.image_size, experiment.image_size), experiment.batch_size, is_training=True,
        color_jitter=None, mean=mean, std=std, num_workers=experiment.workers, persistent_workers=experiment.workers > 0,
        device=device,
    )  # fmt: skip
    losses, start = AverageMeter(), _clock(device)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    for step, (views, labels) in enumerate(itertools.islice(endless, experiment.steps), 1):
        loss = _forward(experiment, model, views, labels)
        loss.backward()
        if experiment.clip_norm:
            dispatch_clip_grad(model.parameters(), experiment.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if step % experiment.log_every == 0 or step == experiment.steps:
            losses.update(loss.item(), len(views))
    return _clock(device) - start


def _forward(experiment, model, images, labels):
    """The loss of one forward pass."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=experiment.precision == "bf16"):
        logits = model(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=experiment.label_smoothing)


def _clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
