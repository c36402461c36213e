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
    monkeypatch.setenv("PROFILE", "fast")
    with pytest.raises(ConfigError, match="'fast'.*smoke, quick, photos, full"):
        active_experiment()
