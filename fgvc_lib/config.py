"""What an experiment is, and the profiles that fix its size."""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

from .errors import ConfigError, nearest

REPOSITORY = Path(__file__).resolve().parents[1]

# Raised when a change of the code makes finished runs out of date: it is part of every run's name.
RUN_VERSION = 2

# Where and how a run is computed, not what comes out: no part of its name.
NOT_HASHED = {"profile", "data", "workers", "cache", "accumulate", "checkpointing", "compile"}

# Lowest and highest value of each number of an experiment, both allowed unless it is in OPEN.
RANGES = {
    "stride": (1, 1024), "top_k": (1, 4096), "rank": (1, 1024), "dropout": (0, 1),
    "image_size": (1, 8192), "resize_size": (1, 8192), "batch_size": (1, 65_536), "steps": (1, 10**9),
    "warmup_steps": (0, 10**9), "lr": (0, 100), "momentum": (0, 1), "weight_decay": (0, 10), "clip_norm": (0, 10**6),
    "head_lr": (0, 100), "epochs": (0, 10**6), "label_smoothing": (0, 1), "seed": (0, 2**32 - 1), "log_every": (1, 10**9),
    "checkpoint_every": (1, 10**9), "workers": (0, 256), "accumulate": (1, 65_536),
}  # fmt: skip
# The end of a range that is not part of it.
OPEN = {"dropout": 1, "momentum": 1, "label_smoothing": 1, "lr": 0, "head_lr": 0}
WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Experiment:
    """One training run. The defaults are those of profile `quick` but for its weights.

    Raises ConfigError, with what is allowed, for a value of another type or out of its range.
    A default is part of the name of every run that leaves it alone, so none may change without a new RUN_VERSION.
    """

    profile: str = "quick"  # which sizes the built-in birds are drawn in
    dataset: str = "cub200"  # how to read the data folder, see datasets.DATASETS
    data: str = ""  # the data folder; "": the built-in birds of the profile, drawn when first needed
    validation: bool = False  # hold back every fifth training image of a class and test on those: for choosing settings
    skip_broken: bool = False  # leave out images that cannot be decoded instead of stopping
    crop_to_box: bool = False  # cut photographs to the annotated box around the bird first, in training and in tests

    model: str = "vit_micro16"  # of vit.PRESETS, "resnet18", "efficientnet_lite0", or "timm:NAME"
    stride: int = 16  # pixels between patches; less than the patch size: they overlap
    fusion: str | None = None  # rule of the part selection; None: the plain ViT
    top_k: int = 1  # patches a head that the part selection keeps
    rank: int = 1  # of fusion "lowrank"
    head: Literal["cls", "flatten"] = "cls"  # classify the class token, or class and part tokens side by side
    dropout: float = 0.0
    weights: str = ""  # see weights.sources.KNOWN; "": random initialisation
    init_last_block: bool = False  # True: leave the last layer random, as TransFG's code does

    image_size: int = 112  # pixels the model sees
    resize_size: int = 128  # pixels, both ways, before the crop to image_size
    batch_size: int = 8
    steps: int = 300  # optimiser steps, whatever the size of the data; they count only where epochs is 0
    epochs: float = 0.0  # above 0: steps is as many as that many passes over the training images take
    warmup_steps: int = 30  # linear, then cosine down to 0; with `epochs`, half of the steps at most
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01  # at its peak
    head_lr: float | None = None  # of the classifier, at its peak; None: lr
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # gradients are scaled down to this L2 norm; 0: they are left as they are
    label_smoothing: float = 0.0
    contrastive: bool = False  # add TransFG's contrastive loss
    precision: Literal["no", "bf16"] = "no"  # float32, or bfloat16 autocast in training; tests are always float32
    seed: int = 0

    log_every: int = 20  # steps between lines of metrics.jsonl
    checkpoint_every: int = 150  # steps between checkpoints, each with the accuracy on the test images
    workers: int = 0  # processes that load images, for each that trains
    cache: bool = True  # keep decoded images in data/cache/; sets of a few images are decoded anew each time
    accumulate: int = 1  # equal parts in which a batch is computed, one after the other: less memory, the same gradients
    checkpointing: bool = False  # compute the activations again on the way back instead of keeping them: less memory
    compile: bool = False  # train the model as torch.compile makes it

    def __post_init__(self):
        for name, kind in get_type_hints(Experiment).items():
            kind, *optional = get_args(kind) if get_origin(kind) is UnionType else [kind]
            if optional and getattr(self, name) is None:
                continue
            _check(name, getattr(self, name), kind)
            if kind is float:
                object.__setattr__(self, name, float(getattr(self, name)))  # 1 and 1.0 name the same run
        if self.resize_size < self.image_size:
            way = f"choose --resize-size {self.image_size} or more, such as {min(self.image_size * 8 // 7, 8192)}"
            raise ConfigError(
                f"resize_size {self.resize_size} is smaller than image_size {self.image_size}: no crop fits, {way}"
            )
        if self.warmup_steps > self.steps and not self.epochs:
            way = f"choose fewer, such as --warmup-steps {self.steps // 2}"
            raise ConfigError(f"warmup_steps {self.warmup_steps} must lie between 0 and steps, {self.steps}: {way}")

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
            named = ", ".join(f"{name}{nearest(name, known)}" for name in unknown)
            raise ConfigError(f"an experiment has no option {named}: it has {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def on(self, images: int) -> "Experiment":
        """This experiment on a training set of that many images: `steps` says how many there are, `epochs` is used up.

        Half of the steps at most are for warming up, so that a small set needs no other settings.
        """
        if not self.epochs:
            return self
        steps = max(1, round(self.epochs * images / self.batch_size))
        return self.replace(steps=steps, warmup_steps=min(self.warmup_steps, steps // 2), epochs=0.0)

    def hash(self, *content: str) -> str:
        """12 hex digits that name the run; `content`: checksums of what it reads, such as the data and the weights.

        Fields at their defaults are left out, so that a field that a later version adds renames no run.
        """
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in NOT_HASHED and getattr(self, field.name) != field.default
        }
        fields["weights"] = bool(self.weights)  # which ones is in `content`, wherever the file lies
        text = json.dumps([RUN_VERSION, fields, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check(name, value, kind):
    """Raise ConfigError where an option is not of the type or in the range that it must have."""
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise ConfigError(f"unknown {name} {value!r}: choose one of {', '.join(get_args(kind))}")
        return
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} is {value!r}: it must be {WORDS[kind]}")
    if name in RANGES:
        low, high = RANGES[name]
        if not low <= value <= high or value == OPEN.get(name, math.nan):
            words = {low: f"above {low} and up to {high}", high: f"from {low} to below {high}"}
            raise ConfigError(f"{name} is {value}: it must be {words.get(OPEN.get(name), f'from {low} to {high}')}")


PROFILES = {
    # Seconds: for tests.
    "smoke": Experiment(
        profile="smoke", image_size=64, resize_size=72, batch_size=8, steps=6, warmup_steps=1, log_every=2,
        checkpoint_every=3,
    ),
    # A few minutes for the whole report on two CPU cores. Batch size and peak learning rate are the course report's. The
    # optimiser, which it does not name, is TransFG's: SGD with momentum 0.9.
    "quick": Experiment(weights="data/weights/vit_micro16.npz"),
    # Real photographs and a really pre-trained ViT. data/README.md says how these settings were chosen, on validation images
    # alone.
    "photos": Experiment(
        profile="photos", data="data/CUB_200_2011", model="vit_s14", stride=14, weights="dinov2", image_size=126,
        resize_size=144, batch_size=16, epochs=7, warmup_steps=50, optimizer="adamw", lr=2e-5, head_lr=1e-3,
        weight_decay=0.05, label_smoothing=0.1, precision="bf16", log_every=30, checkpoint_every=120,
    ),
    # The course report's own set-up (it says 224 in one place and 228 in another; both make as many patches). It names
    # neither optimiser nor number of steps: SGD and 20,000 steps of 8, the 160,000 images of its schedule, are TransFG's.
    "full": Experiment(
        profile="full", data="data/CUB_200_2011", model="vit_b16", weights="data/weights/ViT-B_16.npz", image_size=224,
        resize_size=256, batch_size=8, steps=20_000, warmup_steps=1_000, lr=1e-2, log_every=50, checkpoint_every=2_000,
        workers=8,
    ),
}  # fmt: skip

# What the CNNs of a profile are trained with instead, where that differs: chosen for them as the rest is for the ViTs.
CNN_SETTINGS = {"photos": {"lr": 1e-3, "head_lr": None}}


def profile_named(name: str) -> Experiment:
    """One of PROFILES. Raises ConfigError, with the nearest and all names, for an unknown one."""
    if name not in PROFILES:
        raise ConfigError(f"unknown profile {name!r}{nearest(name, PROFILES)}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def active_experiment() -> Experiment:
    """The profile that the environment variable PROFILE names (default `quick`), on the data folder DATA, read as DATASET
    (default `cub200`), if set; SKIP_BROKEN=1 leaves out what cannot be read.

    Raises ConfigError, listing what is known, for an unknown profile or another value of SKIP_BROKEN, and for DATASET
    without a folder.
    """
    profile = profile_named(os.environ.get("PROFILE") or "quick")
    data, dataset = os.environ.get("DATA") or profile.data, os.environ.get("DATASET")
    if dataset and not data:
        raise ConfigError(f"DATASET={dataset} says how to read a folder: name the folder, too, as in DATA=photos")
    skip = os.environ.get("SKIP_BROKEN") or "0"
    if skip not in ("0", "1"):
        raise ConfigError(f"SKIP_BROKEN={skip} is unknown: 1 leaves out images that cannot be read, 0 stops at them")
    return profile.replace(data=data, dataset=dataset or profile.dataset, skip_broken=skip == "1")


def project_path(path: str | os.PathLike) -> Path:
    """`path`, taken from the project's root unless absolute; ~ is the home folder.

    The root is the repository that the library is imported from, wherever Python was started. An installed copy has none:
    then it is the nearest folder upwards from the working folder that holds notebooks/ and fgvc_lib/, or else that folder.
    """
    here = Path.cwd()
    known = (folder for folder in (REPOSITORY, here, *here.parents) if (folder / "notebooks").is_dir())
    return next((folder for folder in known if (folder / "fgvc_lib").is_dir()), here) / os.path.expanduser(path)


def given_path(path: str | os.PathLike) -> Path:
    """A file or folder that a user names: from the working folder if it is there, else see `project_path`.

    Raises ConfigError for what cannot be a path, such as too long a name.
    """
    try:
        here = Path.cwd() / os.path.expanduser(path)
        return here if here.exists() else project_path(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)[:80]!r} cannot be looked for ({reason}): name a file or a folder") from error


def runs_folder() -> Path:
    """Where runs are kept: runs/, or what the environment variable RUNS says."""
    return project_path(os.environ.get("RUNS") or "runs")


def figures_folder() -> Path:
    """Where figures are written: build/figures/, or what the environment variable FIGURES says."""
    return project_path(os.environ.get("FIGURES") or "build/figures")
