"""The options of an experiment that say how it is computed, and what they lead to on this machine."""

import platform
import sys
from functools import cache

import torch
from torch import nn

from ..config import Experiment
from ..errors import ConfigError
from .device import best_device


def apply_options(experiment: Experiment, model: nn.Module, shares: int = 1) -> None:
    """Have a model spare memory where the experiment asks for it, and say what its options lead to that they do not show.

    shares: the parts that a batch comes in. Raises ConfigError for what the model or the machine lacks.
    """
    if experiment.checkpointing:
        try:
            model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:  # there is none, or it is one of timm's that refuse
            raise ConfigError(f"{experiment.model} cannot do without its activations: set checkpointing to False") from error
    if experiment.compile:
        try:
            torch.compile(torch.neg)(torch.zeros(1, device=best_device()))
        except Exception as error:  # of every kind: compilers are missing in many ways
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"nothing can be compiled here ({reason}): install a C++ compiler, or set compile to False"
            ) from error
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        if shares > 1:
            say_once(
                f"Batch normalisation sees {experiment.batch_size // shares} images at a time, not the "
                f"{experiment.batch_size} of a batch, and learns otherwise than from whole batches."
            )
        if experiment.checkpointing:
            say_once("With checkpointing, batch normalisation counts each batch twice in its running mean and variance.")
    if experiment.precision == "bf16":
        _check_bf16()


def _check_bf16():
    """Raise ConfigError where bf16 cannot be computed, and say so where it is emulated."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if not native and not torch.cuda.is_bf16_supported():
            raise ConfigError(f"{torch.cuda.get_device_name()} cannot compute in bf16: set precision to no")
    else:
        asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private: another version may not have it
        native = platform.machine().lower() not in ("x86_64", "amd64") or asked is None or asked()
    if not native:
        # A ViT-S/14 on oneDNN held to AVX-512 without bf16 took 4.5 times as long as in float32, and held to AVX2 30 times.
        say_once("This processor emulates bf16, which is several times slower than float32: set precision to no.")


@cache
def say_once(line: str) -> None:
    """Print a line to stderr, once for whatever number of runs it holds for."""
    print(line, file=sys.stderr)
