"""Renews what is committed of the report from the report that was made last."""

import nbformat

from ..config import PROFILES, project_path
from ..experiments.ablation import made, plan, read_records
from ..experiments.statistics import values_of
from ..experiments.variants import report_variants
from ..files import write_whole
from ..runs import find_run
from .build import ReportError
from .results import PAGES, recorded_pages

THREADS = 2  # that the committed numbers are computed on, and `make check` compares: another number rounds otherwise


def publish() -> str:
    """Copy the report in build/report/ to where it is committed: notebooks/, figures/ and the pages of results.

    Makes the tables on the front pages anew from the records, too. Raises ReportError, and changes nothing, where it is not
    the report on the built-in birds in profile `quick`, or where the notebooks, the records in data/ and the report do not
    agree; DataError where records or runs cannot be read.
    """
    report, results = project_path("build/report"), [file for file, _ in PAGES.values()]
    if not all((report / part).exists() for part in (*results, "notebooks", "figures")):
        raise ReportError(f"{report} is no report on the built-in birds in profile quick: call `make report` for one first")
    pages = recorded_pages()
    for file in results:
        if (report / file).read_text(encoding="utf-8") != pages[file]:
            raise ReportError(f"the records in data/ no longer say what {report / file} says: call `make report` again")
    notebooks = {path.name: path for path in sorted(project_path("notebooks").glob("[0-9]*.ipynb"))}
    executed = {path.name: path for path in sorted((report / "notebooks").glob("*.ipynb"))}
    for name in sorted({*notebooks, *executed}):
        if name not in notebooks or name not in executed or _sources(notebooks[name]) != _sources(executed[name]):
            raise ReportError(f"notebooks/{name} is not what was executed: call `make report` again")
    _check_runs()

    figures = {path.name: path for path in (report / "figures").iterdir()}
    for name, path in figures.items():
        write_whole(project_path("figures") / name, path.read_bytes())
    for path in project_path("figures").iterdir():
        if path.name not in figures:
            path.unlink()
    for name, path in executed.items():
        write_whole(notebooks[name], path.read_bytes())
    for file, page in pages.items():
        write_whole(project_path(file), page)
    return f"Renewed: notebooks/, figures/, {', '.join(pages)}. Look at `git diff --stat`, then commit."


def _sources(path):
    return [(cell.cell_type, cell.id, cell.source) for cell in nbformat.read(path, as_version=4).cells]


def _check_runs():
    """Raise ReportError where a model of the chapters is not the recorded one, or is more or less accurate than can be."""
    base = PROFILES["quick"]
    records = read_records(plan(base)[2])
    recorded = {(one["variant"], one["seed"]): one["run"] for one in made(records)}
    for key, variant in report_variants(base).items():
        run = find_run(variant.experiment)
        if recorded.get((key, base.seed)) != run.folder.name:
            raise ReportError(f"{variant.title} is not the recorded one: call `python -m fgvc_lib ablate` for new records")
        if run.environment["threads"] != THREADS:
            again = f"call `make clean`, then `OMP_NUM_THREADS={THREADS} make report`"
            raise ReportError(f"{variant.title} was trained on {run.environment['threads']} threads, not {THREADS}: {again}")
        accuracies = values_of(records, key).mean(axis=1)
        apart, spread = abs(run.correct.mean() - accuracies[base.seed]), accuracies.max() - accuracies.min()
        if apart > spread:  # rounding alone makes it no more another result than another seed does
            raise ReportError(
                f"{variant.title} is {100 * apart:.1f} points from its record, and {100 * spread:.1f} lie between seeds: "
                "call `python -m fgvc_lib ablate` for new records, or find what has changed"
            )
