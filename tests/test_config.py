import pytest

from fgvc_lib.config import PROFILES, Experiment, active_experiment
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
