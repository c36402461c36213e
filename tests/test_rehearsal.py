"""`make report PROFILE=full` from end to end, in two steps a model, on what stands in for its files: small data in
CUB-200-2011's own layout, and random weights of full size under Google's and torchvision's names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torchvision
from conftest import write_official

from fgvc_lib.config import PROFILES
from fgvc_lib.experiments import report_variants
from fgvc_lib.runs import Run

pytestmark = pytest.mark.rehearsal

ROOT = Path(__file__).parents[1]
FULL = PROFILES["full"].replace(steps=2, warmup_steps=1)
SHORTER = "from fgvc_lib.config import PROFILES\nPROFILES['full'] = PROFILES['full'].replace(steps=2, warmup_steps=1)\n"
# Of two groups, as in CUB-200-2011; more training images than the least that are kept decoded (datasets.views.TINY).
DATA = {"classes": ("Black_footed_Albatross", "Laysan_Albatross", "Brewer_Blackbird", "Rusty_Blackbird"), "train": 65}


def google_arrays(rng, dim=768, depth=12, heads=12, mlp=3072, patch=16, patches=14 * 14, classes=21_843):
    """Arrays with the names and shapes of Google's ViT-B_16.npz for ImageNet-21k, of random numbers."""
    norm = {"scale": (dim,), "bias": (dim,)}
    into = {"kernel": (dim, heads, dim // heads), "bias": (heads, dim // heads)}
    attention = dict.fromkeys(("query", "key", "value"), into)
    attention["out"] = {"kernel": (heads, dim // heads, dim), "bias": (dim,)}
    block = {
        "LayerNorm_0": norm,
        **{f"MultiHeadDotProductAttention_1/{part}": shapes for part, shapes in attention.items()},
        "LayerNorm_2": norm,
        "MlpBlock_3/Dense_0": {"kernel": (dim, mlp), "bias": (mlp,)},
        "MlpBlock_3/Dense_1": {"kernel": (mlp, dim), "bias": (dim,)},
    }
    modules = {
        "embedding": {"kernel": (patch, patch, 3, dim), "bias": (dim,)},
        "Transformer/posembed_input": {"pos_embedding": (1, 1 + patches, dim)},
        "Transformer/encoder_norm": norm,
        "pre_logits": {"kernel": (dim, dim), "bias": (dim,)},
        "head": {"kernel": (dim, classes), "bias": (classes,)},
        **{f"Transformer/encoderblock_{n}/{module}": shapes for n in range(depth) for module, shapes in block.items()},
    }
    shapes = {f"{module}/{leaf}": shape for module, leaves in modules.items() for leaf, shape in leaves.items()}
    arrays = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, shape in {"cls": (1, 1, dim), **shapes}.items()}
    return {name: array + 1 if name.endswith("scale") else array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project after `make data`, as far as its formats go, where profile `full` trains for two steps."""
    folder = tmp_path_factory.mktemp("full") / "clone"
    for name in ("fgvc_lib", "notebooks", "docs", "data/bench", "data/results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sitecustomize.py").write_text(SHORTER)  # for the notebooks' kernels, too
    write_official(folder / FULL.data, ending="jpg", **DATA)
    vit, resnet = (folder / report_variants(FULL)[key].experiment.weights for key in ("vit", "resnet18"))
    vit.parent.mkdir()
    np.savez(vit, **google_arrays(np.random.default_rng(0)))
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=1000).state_dict()
    torch.save(
        {name: tensor for name, tensor in state.items() if "num_batches" not in name}, resnet
    )  # the published has none
    yield folder
    shutil.rmtree(folder)  # some gigabytes


def test_the_whole_report_in_profile_full(clone):
    removed = ("DATA", "DATASET", "RUNS", "FIGURES", "SKIP_BROKEN")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"PROFILE": "full", "PYTHONPATH": str(clone)}
    ran = subprocess.run(
        [sys.executable, "-m", "fgvc_lib", "report"], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 classes, 260 training and 8 test images" in ran.stdout and "9 models are to be trained" in ran.stdout

    report, variants = clone / "build" / "report", report_variants(FULL)
    chapters = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert (report / "index.html").is_file()
    assert sorted(path.name for path in (report / "notebooks").iterdir()) == chapters
    for name in chapters:  # the notebooks of the project itself are those of the built-in birds
        assert (clone / "notebooks" / name).read_bytes() == (ROOT / "notebooks" / name).read_bytes()
        text = nbformat.writes(nbformat.read(report / "notebooks" / name, 4))
        assert "Profile full" in text or name.startswith("07")
    figures = {path.stem for path in (report / "figures").iterdir()}
    assert {"01_lookalikes", "02_energy_in_box", "04_hits", "06_fgsm"} <= figures

    runs = [Run(path.parent) for path in (clone / "runs").glob("*/environment.json")]
    assert {run.experiment for run in runs} == {variant.experiment for variant in variants.values()}
    for run in runs:
        assert run.finished and not run.damaged()
        assert run.metrics["step"].tolist() == [2] and len(run.predictions) == 8 and run.environment["weights"]
        # Dosovitskiy et al. 2021, table 1: 86 M parameters
        assert run.environment["parameters"] > 85e6 or run.experiment.model == "resnet18"
    assert len({run.environment["weights"] for run in runs}) == 2
