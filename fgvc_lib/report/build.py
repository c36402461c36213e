"""Runs the notebooks in order and makes the HTML report from them."""

import datetime
import logging
import math
import os
import re
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from tqdm import tqdm

from ..config import active_experiment, project_path
from ..datasets import found, open_splits
from ..errors import DataError, FGVCError
from ..experiments.ablation import read_records
from ..experiments.bench import image_seconds
from ..experiments.variants import REFERENCE, report_variants
from ..files import write_whole
from ..runs import find_run
from .claims import read_evidence
from .results import results_pages
from .site import write_site


class ReportError(FGVCError):
    """A notebook that did not run to its end."""


def build_report() -> Path:
    """Execute notebooks/*.ipynb, write their HTML and an index to build/report/, return the index.

    The profile and the data are those of `config.active_experiment`. The report on the built-in birds in profile
    `quick` is the committed one: only then the notebooks themselves and figures/ are written too; otherwise the
    executed notebooks and the figures stay below build/report/, since a photograph may not be ours to publish.
    RESULTS.md, its Chinese twin and the verdicts in both READMEs are made anew with it, from the records. Says first how
    many models there are to train.
    Raises ReportError, naming notebook and cell, where one fails.
    """
    experiment = active_experiment()
    built_in = experiment.profile == "quick" and not os.environ.get("DATA")
    splits = open_splits(experiment)  # what is wrong with the data is said before a kernel starts
    print(found(*splits))
    source, folder, new = map(project_path, ("notebooks", "build/report", "build/report.new"))
    notebooks = {path: nbformat.read(path, as_version=4) for path in sorted(source.glob("[0-9]*.ipynb"))}
    if not notebooks:
        raise ReportError(f"no notebooks in {source}: run this in the project's folder")
    shutil.rmtree(new, ignore_errors=True)  # the last report stays until the new one is whole
    os.environ["FIGURES"] = str(project_path("figures") if built_in else new / "figures")
    print(_to_train(experiment, *splits))

    expected = sum(_expected_seconds(cell) for notebook in notebooks.values() for cell in notebook.cells)
    left = ", {remaining} left" if built_in else ""  # the cells' times are those of the built-in birds
    with tqdm(total=expected, bar_format="{desc} {percentage:3.0f}% |{bar:12}| {elapsed} gone" + left + "{postfix}") as bar:
        for path, notebook in notebooks.items():
            _execute(path, notebook, bar)
            target = path if built_in else new / "notebooks" / path.name
            write_whole(target, nbformat.writes(notebook) + "\n")
    if built_in:
        _write_results()
    index = write_site(new, notebooks, experiment, texts=built_in)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder / index.name


def _to_train(base, train, test):
    """How many of the chapters' models are not trained yet, and about how long that takes."""
    experiments = {key: variant.experiment for key, variant in report_variants(base).items()}
    todo = [one for one in experiments.values() if not find_run(one, fingerprint=train.fingerprint).finished]
    if not todo:
        return f"All {len(experiments)} models of the chapters are trained."
    one = experiments[REFERENCE].on(len(train))  # for all: the CNN takes less
    training, testing = image_seconds(one)
    tests = math.ceil(one.steps / one.checkpoint_every)  # one at each checkpoint
    minutes = len(todo) * (one.steps * one.batch_size * training + tests * len(test) * testing) / 60
    time = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{math.ceil(minutes)} minutes"
    return f"{len(todo)} of the chapters' {len(experiments)} models are to be trained: about {time} on this machine."


def _write_results():
    """The pages of results from what is recorded."""
    try:
        pages = results_pages(read_evidence(), read_records(project_path("data/results/quick-CUB_40.parquet")))
    except DataError as error:
        print(f"The pages of results stay as they are: {error}")
        return
    for file, page in pages.items():
        write_whole(project_path(file), page)


def _execute(path, notebook, bar):
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    seconds = [_expected_seconds(cell) for cell in notebook.cells]
    where, source = "before its first cell", ""
    for index in code:  # what the last run left says nothing about this one
        notebook.cells[index].update(outputs=[], execution_count=None)

    def started(cell, cell_index):
        nonlocal where, source
        where, source = f"cell {code.index(cell_index) + 1} of {len(code)}", cell.source
        bar.set_description(f"{path.stem}, {where}")
        bar.set_postfix_str("")

    client = _Client(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        store_widget_state=False,
        on_cell_execute=started,
        on_cell_complete=lambda cell, cell_index: bar.update(seconds[cell_index]),
    )
    client.bar = bar
    try:
        client.execute()
    except CellExecutionError as error:
        message = f"{path.name}, {where} failed: {error.ename}: {error.evalue}"
        raise ReportError(f"{message}\n--- the cell ---\n{source}") from error
    except (DeadKernelError, AssertionError) as error:  # the second where the kernel ends while nbclient tidies up
        logging.getLogger("asyncio").disabled = True  # nbclient's watch over the kernel would end in a traceback
        message = f"{path.name}, {where}: Python was stopped, or ended for want of memory; call it again, what is done stays"
        raise ReportError(message) from error
    for index in code:  # a bar that is gone leaves an empty line
        notebook.cells[index].outputs = [one for one in notebook.cells[index].outputs if one.get("text", "text").strip()]


class _Client(NotebookClient):
    """Shows on the report's bar how far the bars have come that a cell prints."""

    def output(self, outs, msg, display_id, cell_index):
        if found := re.findall(r"([^\r\n]*\d%)\|", msg["content"].get("text", "")):
            self.bar.set_postfix_str(found[-1])
        return super().output(outs, msg, display_id, cell_index)


def _expected_seconds(cell):
    """How long a cell took when it last ran, from the times that nbclient keeps in it; a second if it never did."""
    times = cell.metadata.get("execution", {})
    if not {"iopub.execute_input", "shell.execute_reply"} <= times.keys():
        return float(cell.cell_type == "code")
    start, end = (datetime.datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
    return max(0.1, (end - start).total_seconds())
