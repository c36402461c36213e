"""Pre-training on synthetic birds of species that the report's own birds are not: a small ImageNet."""

import hashlib
from pathlib import Path
from typing import Literal

import safetensors.torch

from ..config import Experiment, project_path
from ..errors import ConfigError
from ..files import write_whole
from ..runs import Run
from ..synthbirds import Sizes, generate
from ..training import fit, load_model
from ..weights import save_google
from .statistics import wilson

PRETRAIN_SIZES, SEED = Sizes(genera=100, species=8, train=90, test=4), 1
FOLDER = "data/synthbirds-pretrain"

_COMMON = Experiment(
    profile="pretrain", data=FOLDER, image_size=96, resize_size=108, batch_size=64, steps=12_000, warmup_steps=600,
    precision="bf16", label_smoothing=0.1, log_every=50, checkpoint_every=1_000,
)  # fmt: skip
# The same images, the same number of them seen; each model with the optimiser it is usually trained with.
PRETRAINING = {
    "vit_micro16": _COMMON.replace(model="vit_micro16", optimizer="adamw", lr=1e-3, weight_decay=0.05),
    "resnet18": _COMMON.replace(model="resnet18", lr=0.05, weight_decay=5e-4),
}
WEIGHTS = {"vit_micro16": "data/weights/vit_micro16.npz", "resnet18": "data/weights/resnet18_synth.safetensors"}


def pretrain_model(model: Literal["vit_micro16", "resnet18"]) -> Path:
    """Train a model on the built-in birds for pre-training and keep its weights, with a card beside them (hours on a CPU).

    Draws the birds first if they are not there; goes on where an interrupted call stopped. Returns the weights' file, in
    half precision: Google's .npz for the ViT, safetensors with torchvision's names for the ResNet.
    Raises ConfigError, listing the known ones, for another model.
    """
    if model not in PRETRAINING:
        raise ConfigError(f"unknown model {model!r} to pre-train: choose one of {', '.join(PRETRAINING)}")
    generate(project_path(FOLDER), PRETRAIN_SIZES, SEED, "pretrain")
    run = fit(PRETRAINING[model])
    trained, path = load_model(run), project_path(WEIGHTS[model])
    if path.suffix == ".npz":
        save_google(trained, path)
    else:
        state = {name: tensor.contiguous() for name, tensor in trained.half().state_dict().items()}
        write_whole(path, safetensors.torch.save(state))
    write_whole(path.with_suffix(".md"), _card(run, path))
    return path


def _card(run: Run, path: Path) -> str:
    """The model card, in Markdown."""
    experiment, correct, about, sizes = run.experiment, run.correct, run.environment, PRETRAIN_SIZES
    low, high = wilson(correct.sum(), len(correct))
    rows = {
        "Model": f"{experiment.model}, {about['parameters'] / 1e6:.1f} M parameters, half precision",
        "Trained on": f"built-in birds of the set `pretrain`: {sizes.genera} genera of {sizes.species} species, "
        f"{sizes.train} images of each, seed {SEED}; none of these species is in the report's own set, `benchmark`",
        "Images": f"crops of {experiment.image_size} x {experiment.image_size} from {experiment.resize_size} x "
        f"{experiment.resize_size}, flipped at random; {experiment.steps * experiment.batch_size:,} seen",
        "Optimiser": f"{experiment.optimizer}, peak learning rate {experiment.lr}, weight decay {experiment.weight_decay}, "
        f"{experiment.steps:,} steps of {experiment.batch_size}, cosine, label smoothing {experiment.label_smoothing}",
        "Seed": experiment.seed,
        "Accuracy": f"{correct.mean():.1%} ({low:.1%} to {high:.1%}, Wilson) of {len(correct):,} held-out images of the "
        f"same {about['classes']} species",
        "Made": f"in {about['seconds'] / 60:.0f} minutes on {about['device']}, torch {about['versions']['torch']}, with "
        f"`python -m fgvc_lib pretrain {experiment.model}`",
        "SHA-256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "Licence": "MIT, as the images",
    }
    return f"# {path.name}\n\n| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())
