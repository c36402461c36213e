from pathlib import Path

import pytest

from fgvc_lib import config
from fgvc_lib.config import PROFILES, Experiment, active_experiment, figures_folder, given_path, project_path, runs_folder
from fgvc_lib.errors import ConfigError


def test_profiles(monkeypatch):
    assert set(PROFILES) == {"smoke", "quick", "photos", "full"}
    monkeypatch.delenv("PROFILE", raising=False)
    monkeypatch.delenv("DATA", raising=False)
    assert active_experiment() == PROFILES["quick"] == Experiment(weights="data/weights/vit_micro16.npz")
    monkeypatch.setenv("PROFILE", "full")
    monkeypatch.setenv("DATA", "somewhere")
    assert active_experiment() == PROFILES["full"].replace(data="somewhere")
    monkeypatch.setenv("DATASET", "folders")
    assert active_experiment() == PROFILES["full"].replace(data="somewhere", dataset="folders")
    monkeypatch.delenv("DATA")
    assert active_experiment() == PROFILES["full"].replace(dataset="folders")
    monkeypatch.setenv("PROFILE", "quick")
    with pytest.raises(ConfigError, match="DATASET=folders says how to read a folder: name the folder"):
        active_experiment()
    monkeypatch.delenv("DATASET")
    monkeypatch.setenv("PROFILE", "fast")
    with pytest.raises(ConfigError, match="'fast'.*smoke, quick, photos, full"):
        active_experiment()


def test_skip_broken_from_the_environment(monkeypatch):
    for value, wanted in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("SKIP_BROKEN", value)
        assert active_experiment().skip_broken == wanted
    monkeypatch.setenv("SKIP_BROKEN", "yes")
    with pytest.raises(ConfigError, match="SKIP_BROKEN=yes is unknown: 1 leaves out"):
        active_experiment()


def test_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()  # of another project
    monkeypatch.chdir(tmp_path / "notebooks")
    assert project_path("runs") == Path(config.__file__).parents[1] / "runs"


def test_the_project_of_an_installed_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "REPOSITORY", tmp_path / "site-packages")
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    assert project_path("runs") == Path.cwd() / "runs"  # notebooks/ alone may be anyone's
    (tmp_path / "project" / "fgvc_lib").mkdir()
    assert project_path("runs") == tmp_path / "project" / "runs"


def test_what_is_written_by_itself_is_ignored_by_git(monkeypatch):
    ignored = (project_path(".gitignore")).read_text().splitlines()
    for name, folder in (("RUNS", runs_folder), ("FIGURES", figures_folder)):
        monkeypatch.delenv(name, raising=False)
        assert f"{folder().relative_to(project_path('.')).parts[0]}/" in ignored


def test_folders_that_a_user_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, folder in (("RUNS", runs_folder), ("FIGURES", figures_folder)):
        monkeypatch.setenv(name, "~/mine")
        assert folder() == tmp_path / "mine"
    (tmp_path / "photos").mkdir()
    assert given_path("photos") == given_path("~/photos") == tmp_path / "photos"
    assert given_path("other") == project_path("other") != tmp_path / "other"
    assert given_path("~nobody/photos") == project_path("~nobody/photos")


def test_an_unknown_option_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no option stpes \(did you mean steps.*\), zzz: it has profile, .*cache"):
        Experiment().replace(stpes=3, zzz=1)
