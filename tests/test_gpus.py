"""Training from a notebook's kernel on several GPUs, in whose place two processes on the CPU train here."""

import nbformat
import pytest
from conftest import write_cub
from nbclient import NotebookClient
from test_processes import same_curve

from fgvc_lib.config import Experiment
from fgvc_lib.experiments.gpus import fit_on_all_gpus
from fgvc_lib.runs import find_run
from fgvc_lib.training import fit

CELLS = (
    """
import torch
from fgvc_lib.config import Experiment
from fgvc_lib.errors import TrainingError
from fgvc_lib.experiments.gpus import fit_on_all_gpus
from fgvc_lib.training import fit

torch.cuda.device_count = lambda: 3  # of which two share a batch of four equally
torch.set_num_threads(2)
torch.randn(10**7).exp()  # after this the kernel has threads that its copies lack
experiments = [Experiment(**options) for options in {options}]
""",
    """
try:
    fit_on_all_gpus(experiments[0].replace(lr=100.0, clip_norm=0.0, seed=9))
except TrainingError as error:
    print(error)
""",
    "fit_on_all_gpus(*experiments)",
    "print([fit(experiment).environment['processes'] for experiment in experiments])",
    "fit_on_all_gpus(*experiments)",
    "fit_on_all_gpus(experiments[0].replace(seed=1))",
)


def test_a_notebook_trains_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    options = {"data": str(write_cub(tmp_path / "cub")), "image_size": 32, "resize_size": 36, "steps": 6, "log_every": 1}
    options |= {"batch_size": 4, "warmup_steps": 1, "model": "vit_micro16", "weights": ""}
    both = [options, options | {"stride": 12, "fusion": "mul"}]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell.replace("{options}", repr(both))) for cell in CELLS]
    NotebookClient(notebook, timeout=120).execute()
    _, failed, trained, found, again, late = (
        "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells
    )
    assert "of 2 has failed: TrainingError: the loss is nan at step" in failed
    assert trained.count("Launching training on 2") == 1 and found.strip() == "[2, 2]" and again == ""
    assert "has used a GPU already and trains on that one: restart its kernel to train on 2" in late
    for experiment in (Experiment(**options) for options in both):
        same_curve(find_run(experiment, tmp_path / "runs"), fit(experiment, progress=False, runs=tmp_path / "one"))


@pytest.mark.parametrize(("gpus", "changes"), [(0, {}), (1, {}), (3, {"batch_size": 5}), (8, {"contrastive": True})])
def test_one_process_is_left_to_fit(gpus, changes, tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("fgvc_lib.experiments.gpus.notebook_launcher", lambda *arguments: pytest.fail("it was started"))
    fit_on_all_gpus(tiny.replace(**changes))
