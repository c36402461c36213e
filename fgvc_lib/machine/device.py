"""The device: which one models run on, its random numbers, and its description in a run's record."""

import os
import platform
import time
from importlib.metadata import version

import torch

from .. import __version__


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU: for models that are trained already; training asks Accelerate."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_device(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does for a device; that keeps a record of each call, too, for GPUs that never come."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def environment(device: torch.device) -> dict:
    """For a run's record: the device, threads and cores, the versions of Python and packages, and the time."""
    versions = {"fgvc_lib": __version__} | {name: version(name) for name in ("torch", "torchvision", "accelerate", "numpy")}
    processor = platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "device_type": device.type, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "python": platform.python_version(), "versions": versions, "finished": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
