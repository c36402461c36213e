"""What an experiment is, and the three profiles that fix its size."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import ConfigError

# Raised when a change of the code makes finished runs out of date: it is part of every run's hash.
RUN_VERSION = 1

# Says where and how a run is computed, not what comes out: left out of the hash.
NOT_HASHED = {"profile", "data", "workers", "cache"}


@dataclass(frozen=True)
class Experiment:
    """One training run. The defaults are those of profile `quick` but for its weights."""

    profile: str = "quick"  # which sizes the built-in birds are drawn in
    dataset: str = "cub200"  # how to read the data folder, see datasets.DATASETS
    data: str = ""  # the data folder; "": the built-in birds of the profile, drawn when first needed
    skip_broken: bool = False  # leave out images that cannot be decoded instead of stopping

    model: str = "vit_micro16"  # one of vit.PRESETS, "resnet18" or "efficientnet_lite0"
    stride: int = 16  # pixels between patches; less than the patch size: they overlap
    fusion: str | None = None  # rule of the part selection; None: the plain ViT
    top_k: int = 1  # patches a head that the part selection keeps
    rank: int = 1  # of fusion "lowrank"
    head: str = "cls"  # "cls" or "flatten"
    dropout: float = 0.0
    weights: str = ""  # file of pre-trained weights, or "imagenet" for efficientnet_lite0; "": random initialisation
    init_last_block: bool = False  # True: leave the last layer random, as TransFG's code does

    image_size: int = 112  # pixels the model sees
    resize_size: int = 128  # pixels, both ways, before the crop to image_size
    batch_size: int = 8
    steps: int = 300  # optimiser steps, whatever the size of the data
    warmup_steps: int = 30  # linear, then cosine down to 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01  # at its peak
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # gradients are scaled down to this L2 norm
    label_smoothing: float = 0.0
    contrastive: bool = False  # add TransFG's contrastive loss
    precision: str = "no"  # "no" (float32) or "bf16"
    seed: int = 0

    log_every: int = 20  # steps between lines of metrics.jsonl
    checkpoint_every: int = 150  # steps between checkpoints, each with the accuracy on the test images
    workers: int = 0  # processes that load images
    cache: bool = True  # keep decoded images in data/cache/; sets of a few images are decoded anew each time

    def __post_init__(self):
        for name in ("image_size", "batch_size", "steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}: it must be at least 0")
        if self.resize_size < self.image_size:
            raise ConfigError(f"resize_size {self.resize_size} is smaller than image_size {self.image_size}: no crop fits")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(f"warmup_steps {self.warmup_steps} must lie between 0 and steps, {self.steps}")
        if self.precision not in ("no", "bf16"):
            raise ConfigError(f"unknown precision {self.precision!r}: choose one of no, bf16")

    @property
    def title(self) -> str:
        """A few words for a progress bar."""
        if not self.model.startswith("vit"):
            return self.model
        extras = [
            self.fusion,
            f"top {self.top_k}" * (self.top_k > 1),
            "flatten" * (self.head == "flatten"),
            "contrastive" * self.contrastive,
        ]
        return " ".join([self.model, f"stride {self.stride}", *filter(None, extras)])

    def replace(self, **changes) -> "Experiment":
        """A copy with some fields changed. Raises ConfigError, listing the fields, for one that does not exist."""
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(known)):
            raise ConfigError(f"an experiment has no option {', '.join(unknown)}: it has {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def hash(self, *content: str) -> str:
        """12 hex digits that name the run; `content`: checksums of what it reads, such as the data."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_HASHED}
        fields["weights"] = bool(self.weights)  # which ones is in `content`, wherever the file lies
        text = json.dumps([RUN_VERSION, fields, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


PROFILES = {
    # Seconds: for tests.
    "smoke": Experiment(
        profile="smoke", image_size=64, resize_size=72, batch_size=8, steps=6, warmup_steps=1, log_every=2,
        checkpoint_every=3,
    ),
    # A few minutes for the whole report on two CPU cores. Batch, optimiser and peak learning rate are the course report's.
    "quick": Experiment(weights="data/weights/vit_micro16.npz"),
    # The course report's own set-up (it says 224 in one place and 228 in another; both make as many patches). Its step
    # count is not given: 20,000 steps of 8 are the 160,000 images of TransFG's schedule.
    "full": Experiment(
        profile="full", data="data/CUB_200_2011", model="vit_b16", weights="data/weights/ViT-B_16.npz", image_size=224,
        resize_size=256, batch_size=8, steps=20_000, warmup_steps=1_000, lr=1e-2, log_every=50, checkpoint_every=2_000,
        workers=8,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BenchSetting:
    """What `bench` measures for every size and row. The defaults are those of the report."""

    model: str = "vit_b16"  # one of vit.PRESETS
    sizes: tuple[int, ...] = (224, 320, 448)  # pixels, height and width
    stride: int = 12  # pixels
    batch_size: int = 0  # images; 0: 16 on a GPU, 1 on the CPU
    repeats: int = 12  # rounds that count, after one that does not
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"


def active_experiment() -> Experiment:
    """The profile that the environment variable PROFILE names (default `quick`), on the data folder DATA, read as DATASET
    (default `cub200`), if set.

    Raises ConfigError, listing the profiles, for an unknown one.
    """
    name = os.environ.get("PROFILE") or "quick"
    if name not in PROFILES:
        raise ConfigError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    data, dataset = os.environ.get("DATA"), os.environ.get("DATASET") or PROFILES[name].dataset
    return PROFILES[name].replace(data=data, dataset=dataset) if data else PROFILES[name]


# The ResNet-18's weights that go with the ViT's: from the same pre-training, or at least from the same kind of data.
CNN_WEIGHTS = {
    "data/weights/vit_micro16.npz": "data/weights/resnet18_synth.safetensors",
    "data/weights/ViT-B_16.npz": "data/weights/resnet18-f37072fd.pth",
}


def report_rows(base: Experiment) -> dict[str, Experiment]:
    """The rows of the report's table by name, all under the settings of `base`."""
    overlap = base.replace(stride=12)
    return {
        "ResNet-18": base.replace(model="resnet18", weights=CNN_WEIGHTS.get(base.weights, "")),
        "ViT": base,
        "ViT, overlap": overlap,
        "PSM add": overlap.replace(fusion="add"),
        "PSM matmul": overlap.replace(fusion="matmul"),
        "PSM lastlayer": overlap.replace(fusion="lastlayer"),
        "PSM mul": overlap.replace(fusion="mul"),
        "PSM mul, contrastive": overlap.replace(fusion="mul", contrastive=True),
        "PSM mul, flatten": overlap.replace(fusion="mul", head="flatten"),
    }


def project_path(path: str | os.PathLike) -> Path:
    """`path`, taken from the project's root (the nearest folder upwards with a notebooks/ in it) unless absolute."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir()), here)
    return root / path


def runs_folder() -> Path:
    """Where runs are kept: runs/, or what the environment variable RUNS says."""
    return project_path(os.environ.get("RUNS") or "runs")


def figures_folder() -> Path:
    """Where figures are written: figures/, or what the environment variable FIGURES says."""
    return project_path(os.environ.get("FIGURES") or "figures")
