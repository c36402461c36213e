import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import project_at, write_cub
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fgvc_lib import cli
from fgvc_lib.cli import COMMANDS
from fgvc_lib.config import PROFILES
from fgvc_lib.datasets import open_splits
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments import report_variants
from fgvc_lib.report import build
from fgvc_lib.report.build import ReportError, build_report
from fgvc_lib.training import fit


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fgvc_lib", *arguments])
    cli.main()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_lists_its_options(monkeypatch, capsys, command):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, command, "--help")
    assert stop.value.code == 0 and "--help" in capsys.readouterr().out


def test_the_commands_are_listed(monkeypatch, capsys):
    call(monkeypatch)
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)


def test_a_command_of_two_words(monkeypatch, capsys):
    call(monkeypatch, "data", "list")
    assert "cub200: CUB-200-2011, 200 classes, 5,994 training and 5,794 test images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(monkeypatch, "data", "check", "nabrids")
    assert capsys.readouterr().err.startswith("error: unknown data set 'nabrids' (did you mean nabirds")


def test_train_prints_the_result(tiny, monkeypatch, capsys):
    sizes = ("--image-size", "32", "--resize-size", "36", "--batch-size", "4", "--steps", "2", "--warmup-steps", "1")
    for again in (False, True):
        call(monkeypatch, "train", "--data", tiny.data, "--fusion", "mul", "--stride", "12", *sizes)
        said = capsys.readouterr().out
        assert "test accuracy" in said and ("nothing was trained now" in said) == again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--data", "/nowhere/at/all"), "the data folder /nowhere/at/all is missing"),
        (("trian",), "unknown command 'trian' (did you mean train or pretrain?): choose one of report, publish, pdf"),
        (
            ("data", "lst"),
            "unknown command 'data lst' (did you mean data list?): choose one of data list, data download, data",
        ),
        (("train", "--seed", "-1"), "error: seed is -1: it must be from 0 to"),
        (("train", "--lr", "0"), "error: lr is 0.0: it must be above 0"),
        (("train", "--model", "vgg"), "unknown model 'vgg'"),
        (("train", "--dataset", "birds", "--data", "x"), "unknown dataset 'birds'"),
        (("train", "--fusion", "max"), "unknown fusion 'max'"),
        (("train", "--stride", "20"), "stride 20"),
        (("train", "--dataset", "folders", "--data", ""), "dataset 'folders' says how to read a folder: name the folder"),
        (("train", "--data", "own"), "If it has a folder for each class, say DATASET=folders, or --dataset folders"),
        (("draw", "birds", "--sizes", "huge"), "'huge'"),
        (("train", "--learning_rate=0.1"), "train has no option --learning-rate: say --lr"),
        (("ablate", "--data", "own"), "ablate has no option --data: say DATA=folder before the command"),
        (("explain", "a.jpg", "--dataset=folders"), "explain has no option --dataset: say DATASET=name before the command"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, words, tiny, tmp_path, monkeypatch, capsys):
    project_at(monkeypatch, tmp_path)
    (tmp_path / "own" / "finch").mkdir(parents=True)
    if arguments[0] == "train" and "--data" not in arguments:
        arguments = (*arguments, "--data", tiny.data)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1


def test_a_terminal_that_has_only_ascii(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "DATA": str(tmp_path / "caf\u00e9"), "DATASET": "folders"}
    for arguments, words in (((), "COMMAND \\u2026"), (("train",), "caf\\xe9 is no folder with a folder of images")):
        command = [sys.executable, "-m", "fgvc_lib", *arguments]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert words in ran.stdout + ran.stderr and "Traceback" not in ran.stderr


def test_a_reader_that_goes_early_is_no_traceback():
    for arguments in ("data list", "data check --help"):
        command = f"({sys.executable} -m fgvc_lib {arguments}; echo $? >&2) | true"
        ran = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert ran.stderr in ("0\n", "1\n")  # 0 where it was faster


def test_an_unknown_profile_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PROFILE", "fast")
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "report")
    assert stop.value.code == 2 and "smoke, quick, photos, full" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with two small notebooks, the second without code."""
    (tmp_path / "notebooks").mkdir()
    first = [
        new_markdown_cell("# One\n\nWhat is it?"),
        new_code_cell("from fgvc_lib.config import figures_folder\nfrom fgvc_lib.files import write_whole"),
        new_code_cell("print(1 + 1)\nwrite_whole(figures_folder() / 'one.png', b'picture')"),
    ]
    for name, cells in (("01_one", first), ("02_two", [new_markdown_cell("# Two\n\nAnd <then>?")])):
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    project_at(monkeypatch, tmp_path)
    for name in ("PROFILE", "DATA", "FIGURES"):
        monkeypatch.setenv(name, "")
    return tmp_path


@pytest.mark.parametrize("name", ["PROFILE", "DATA", None])
def test_a_report_is_written_below_build_alone(project, monkeypatch, name):
    write_cub(project / "smoke")
    if name:
        monkeypatch.setenv(name, "smoke")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    page = build_report().read_text()
    assert page.count("<li>") == 2 and "What is it?" in page and "And &lt;then&gt;?" in page
    report = project / "build" / "report"
    assert nbformat.read(report / "notebooks" / "01_one.ipynb", 4).cells[2].outputs[0].text == "2\n"
    assert (report / "figures" / "one.png").is_file() and (report / "01_one.html").is_file()
    ignored = (project / "build", project / "data")  # by git
    after = {path for path in project.rglob("*") if path.is_file() and not any(map(path.is_relative_to, ignored))}
    assert after == set(before) and all(path.read_bytes() == content for path, content in before.items())


def test_the_report_says_how_much_there_is_to_train(tiny, birds):
    base = tiny.replace(data=str(birds), fusion=None, stride=16, checkpoint_every=1)
    train, test = open_splits(base)
    said = build._to_train(base, train, test)
    start = "9 of the chapters' 9 models are to be trained: about"
    assert re.fullmatch(start + r" (a minute|\d+ minutes) on this machine\.", said)
    assert re.search(r"about [\d.]+ hours", build._to_train(base.replace(steps=10**6), train, test))
    for variant in report_variants(base).values():
        fit(variant.experiment, progress=False)
    assert build._to_train(base, train, test) == "All 9 models of the chapters are trained."


def test_the_report_s_line_moves_while_a_cell_runs(project, monkeypatch, capfd):
    monkeypatch.setenv("PROFILE", "smoke")
    code = (
        "import sys, time\nfrom tqdm import tqdm\nprint('a remark', file=sys.stderr)\n"
        "for _ in tqdm(range(2), 'a long one', mininterval=0, postfix='loss=0.5'): time.sleep(2)\nprint('done')"
    )
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), project / "notebooks" / "03_long.ipynb")
    build_report()
    lines = re.split("[\r\n]+", capfd.readouterr().err)
    assert "a remark" in map(str.strip, lines)
    pattern = r"03_long, cell 1 of 1: +67% .* (\d\d:\d\d) gone, a long one:  50% 1/2 \[00:02<00:02, +2.0\ds/it, loss=0.5\]"
    ticks = {found[1] for line in lines if (found := re.match(pattern, line))}
    assert len(ticks) >= 2  # while the cell said nothing
    (cell,) = nbformat.read(project / "build" / "report" / "notebooks" / "03_long.ipynb", 4).cells
    assert [(one.name, one.text) for one in cell.outputs] == [("stdout", "done\n")]


def test_missing_data_is_said_before_a_notebook_runs(project, monkeypatch):
    monkeypatch.setenv("DATA", "nothere")
    with pytest.raises(DataError, match="nothere is missing"):
        build_report()
    assert not (project / "build").exists()


def test_a_failing_cell_is_named_and_the_last_report_stays(project):
    index = build_report()
    nbformat.write(new_notebook(cells=[new_code_cell("1"), new_code_cell("1 / 0")]), project / "notebooks" / "03_bad.ipynb")
    with pytest.raises(ReportError, match=r"03_bad.ipynb, cell 2 of 2 failed: ZeroDivisionError"):
        build_report()
    assert index.is_file()


def test_a_failing_cell_is_named_whatever_the_last_run_left(project):
    old = new_code_cell("2", outputs=[nbformat.v4.new_output("stream", text="2")], execution_count=2)
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0"), old]), project / "notebooks" / "03_bad.ipynb")
    with pytest.raises(ReportError, match=r"cell 1 of 2 failed: ZeroDivisionError(.|\n)*1 / 0"):
        build_report()


def test_no_notebooks(tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    with pytest.raises(ReportError, match="no notebooks"):
        build_report()


def test_options_that_say_how_long_to_train(monkeypatch):
    asked, photos = [], PROFILES["photos"]
    monkeypatch.setattr(cli, "train", asked.append)
    monkeypatch.setattr(cli, "active_experiment", lambda: photos)

    def given(*options):
        cli._call(cli.train, "train", list(options))
        return asked[-1]

    assert given() == photos and given("--epochs", "1") == photos.replace(epochs=1.0)
    assert given("--steps", "5") == photos.replace(steps=5, epochs=0.0, warmup_steps=2)
    with pytest.raises(ConfigError, match="--steps and --epochs say how long"):
        given("--steps", "5", "--epochs", "1")
    with pytest.raises(ConfigError, match="set PROFILE=quick before the command"):
        given("--profile", "quick")
    photos = PROFILES["quick"]
    assert given("--steps", "40") == photos.replace(steps=40)
    with pytest.raises(
        ConfigError, match="warmup_steps 30 must lie between 0 and steps, 3: choose fewer, such as --warmup-steps 1"
    ):
        given("--steps", "3")
    with pytest.raises(ConfigError, match=r"unknown profile 'smok' \(did you mean smoke\?\): choose one of"):
        given("--profile", "smok")


def test_options_that_change_nothing_are_refused(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "train", asked.append)
    monkeypatch.setattr(cli, "active_experiment", lambda: PROFILES["photos"])
    for options, words in (
        (("--model", "resnet18", "--stride", "10"), "--stride changes nothing in resnet18: it is for this library's ViTs"),
        (("--model", "timm:resnet50", "--dropout", "0.1"), "--dropout changes nothing in timm:resnet50"),
        (("--top-k", "4"), "--top-k changes nothing in a model without part selection: give --fusion, too"),
        (("--fusion", "mul", "--rank", "2"), "--rank changes nothing in this model: give --fusion lowrank, too"),
    ):
        with pytest.raises(ConfigError, match=words):
            cli._call(cli.train, "train", list(options))
    assert not asked
    cli._call(cli.train, "train", ["--fusion", "lowrank", "--rank", "2", "--top-k", "4", "--stride", "10"])
    cli._call(cli.train, "train", ["--model", "resnet18"])
    cli._call(cli.train, "train", ["--model", "vit_s41", "--stride", "10"])  # `fit` says that there is no such model
    assert [one.rank for one in asked] == [2, 1, 1]
