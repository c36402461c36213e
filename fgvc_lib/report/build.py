"""Runs the notebooks in order and makes the HTML report from them."""

import datetime
import logging
import math
import os
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from ..config import active_experiment, project_path
from ..datasets import found, open_splits
from ..errors import DataError, FGVCError
from ..experiments.bench import image_seconds
from ..experiments.variants import REFERENCE, report_variants
from ..files import write_whole
from ..runs import find_run
from .progress import ReportBar
from .results import PAGES, recorded_pages
from .site import write_site


class ReportError(FGVCError):
    """A notebook that did not run to its end."""


def build_report() -> Path:
    """Execute notebooks/*.ipynb, write their HTML and an index to build/report/, return the index.

    The profile and the data are those of `config.active_experiment`. The executed notebooks and the figures lie in
    build/report/, too, and for the built-in birds in profile `quick` the pages of results, made from the records: `publish`
    copies those to where they are committed. Says first how many models there are to train.
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
    os.environ["FIGURES"] = str(new / "figures")
    print(_to_train(experiment, *splits))

    expected = sum(_expected_seconds(cell) for notebook in notebooks.values() for cell in notebook.cells)
    with ReportBar(expected, estimate=built_in) as bar:  # the cells' times are those of the built-in birds
        for path, notebook in notebooks.items():
            _execute(path, notebook, bar)
            write_whole(new / "notebooks" / path.name, nbformat.writes(notebook) + "\n")
    if built_in:
        _write_results(new)
    index = write_site(new, notebooks, experiment)
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
    minutes = math.ceil(len(todo) * (one.steps * one.batch_size * training + tests * len(test) * testing) / 60)
    time = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes} minutes" if minutes > 1 else "a minute"
    return f"{len(todo)} of the chapters' {len(experiments)} models are to be trained: about {time} on this machine."


def _write_results(folder):
    """The pages of results from what is recorded."""
    try:
        pages = recorded_pages()
    except DataError as error:
        print(f"There are no pages of results: {error}")
        return
    for file, _ in PAGES.values():
        write_whole(folder / file, pages[file])


def _execute(path, notebook, bar):
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    seconds = [_expected_seconds(cell) for cell in notebook.cells]
    where, source = "before its first cell", ""
    for index in code:  # what the last run left says nothing about this one
        notebook.cells[index].update(outputs=[], execution_count=None)

    def started(cell, cell_index):
        nonlocal where, source
        where, source = f"cell {code.index(cell_index) + 1} of {len(code)}", cell.source
        bar.begin(f"{path.stem}, {where}", seconds[cell_index])

    client = _Client(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        store_widget_state=False,
        on_cell_execute=started,
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.end(),
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # its warning of a port on this machine would break the line
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


class _Client(NotebookClient):
    """Passes on what a cell prints to stderr, bars and remarks on this machine, to who waits; no page shows it."""

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stderr":
            self.bar.say(msg["content"]["text"])
            return None
        return super().output(outs, msg, display_id, cell_index)


def _expected_seconds(cell):
    """How long a cell took when it last ran, from the times that nbclient keeps in it; a second if it never did."""
    times = cell.metadata.get("execution", {})
    if not {"iopub.execute_input", "shell.execute_reply"} <= times.keys():
        return float(cell.cell_type == "code")
    start, end = (datetime.datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
    return max(0.1, (end - start).total_seconds())
