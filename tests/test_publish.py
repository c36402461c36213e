"""What of a report becomes the committed one, and when it does not."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from conftest import project_at
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fgvc_lib import cli
from fgvc_lib.config import PROFILES
from fgvc_lib.experiments import made, read_records, report_variants, values_of
from fgvc_lib.report import publish as module
from fgvc_lib.report.build import ReportError
from fgvc_lib.report.publish import publish

RECORDS = Path(__file__).parents[1] / "data" / "results" / "quick.parquet"
PAGES = {name: f"page {name}" for name in ("RESULTS.md", "README.md", "RESULTS.zh-CN.md", "README.zh-CN.md")}


def write_chapter(path, source, *outputs):
    cell = new_code_cell(source, id="cell", outputs=list(outputs))
    nbformat.write(new_notebook(cells=[cell]), path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one chapter, its report in build/report/, and runs as they were recorded."""
    report = tmp_path / "build" / "report"
    for folder in ("notebooks", "figures", "data/results", "build/report/notebooks", "build/report/figures"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(RECORDS, tmp_path / "data" / "results")
    write_chapter(tmp_path / "notebooks" / "01_one.ipynb", "1 + 1")
    write_chapter(report / "notebooks" / "01_one.ipynb", "1 + 1", new_output("stream", text="2"))
    (tmp_path / "figures" / "01_old.png").write_bytes(b"old")
    (report / "figures" / "01_new.png").write_bytes(b"new")
    for name in ("RESULTS.md", "RESULTS.zh-CN.md"):
        (report / name).write_text(PAGES[name])
    project_at(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "recorded_pages", lambda: PAGES)

    records, runs = read_records(RECORDS), {}
    for one in made(records):
        if one["seed"] == 0:
            correct = values_of(records, one["variant"]).loc[0]
            environment = one["environment"] | {"threads": 2}
            runs[one["variant"]] = SimpleNamespace(folder=Path(one["run"]), environment=environment, correct=correct)
    keys = {variant.experiment: key for key, variant in report_variants(PROFILES["quick"]).items()}
    monkeypatch.setattr(module, "find_run", lambda experiment: runs[keys[experiment]])
    return SimpleNamespace(root=tmp_path, report=report, runs=runs)


def content(project):
    kept = [path for path in project.root.rglob("*") if path.is_file() and "build" not in path.parts]
    return {path: path.read_bytes() for path in kept}


def test_what_is_committed_becomes_the_report_s(project):
    assert "notebooks/" in publish()
    (cell,) = nbformat.read(project.root / "notebooks" / "01_one.ipynb", 4).cells
    assert cell.outputs[0].text == "2"
    assert [path.name for path in (project.root / "figures").iterdir()] == ["01_new.png"]
    assert {name: (project.root / name).read_text() for name in PAGES} == PAGES
    before = content(project)
    publish()  # again
    assert content(project) == before


def no_results(project):
    (project.report / "RESULTS.zh-CN.md").unlink()


def other_records(project):
    (project.report / "RESULTS.md").write_text("of older records")


def changed_chapter(project):
    write_chapter(project.root / "notebooks" / "01_one.ipynb", "1 + 2")


def new_chapter(project):
    write_chapter(project.root / "notebooks" / "02_two.ipynb", "1")


def other_experiment(project):
    project.runs["vit"].folder = Path("another")


def other_threads(project):
    project.runs["psm_mul"].environment["threads"] = 16


def another_result(project):
    project.runs["resnet18"].correct[:] = 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_results, "is no report on the built-in birds in profile quick: call `make report`"),
        (other_records, "the records in data/ no longer say what .*RESULTS.md says"),
        (changed_chapter, "notebooks/01_one.ipynb is not what was executed"),
        (new_chapter, "notebooks/02_two.ipynb is not what was executed"),
        (other_experiment, "ViT is not the recorded one"),
        (other_threads, "PSM mul was trained on 16 threads, not 2: call `make clean`, then `OMP_NUM_THREADS=2 make report`"),
        (another_result, r"ResNet-18 is 6\d.\d points from its record, and \d.\d lie between seeds"),
    ],
)
def test_nothing_changes_where_they_do_not_agree(project, change, words):
    change(project)
    before = content(project)
    with pytest.raises(ReportError, match=words):
        publish()
    assert content(project) == before


def test_on_the_command_line_it_is_one_line(project, monkeypatch, capsys):
    no_results(project)
    monkeypatch.setattr("sys.argv", ["fgvc_lib", "publish"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
