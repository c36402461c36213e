"""`python -m fgvc_lib COMMAND …`: what the library does, from the command line."""

import dataclasses
import sys
from importlib import import_module
from json import dumps
from pathlib import Path

import tyro

from .config import active_experiment, project_path, runs_folder
from .errors import DataError, FGVCError
from .files import write_whole

# Command: the function behind it, whose arguments tyro turns into options and whose result is printed; what it does.
# Imported when called, since most of them take seconds to import.
COMMANDS = {
    "report": ("report.build.build_report", "run every notebook and write build/report/index.html"),
    "train": ("cli.train", "train and test one model"),
    "explain": ("cli.explain", "say what a trained model sees in photographs, with a picture for each"),
    "ablate": ("cli.ablate", "run every variant of the ablation (hours on a CPU)"),
    "rerun": ("cli.rerun", "train one variant again and hold the result against the record"),
    "bench": ("cli.bench", "measure what part selection costs"),
    "draw": ("synthbirds.generate", "draw the built-in birds into a folder"),
    "pretrain": ("experiments.pretrain.pretrain_model", "pre-train a model on the built-in birds (hours on a CPU)"),
    "data": ("datasets.download.fetch_all", "fetch what profile `full` needs into data/"),
}


def train() -> str:
    """Train and test one model; its options start from the profile that PROFILE names."""
    raise NotImplementedError
