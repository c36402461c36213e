"""A run is a folder: what training leaves behind, and how it is found again."""

import json
from functools import cached_property
from pathlib import Path

import pandas as pd

from .backbones import source_of, weights_checksum
from .config import Experiment, runs_folder
from .datasets import open_splits
from .errors import DataError

# environment.json is written last: a folder that has it is a finished run.
FILES = ("experiment.json", "metrics.jsonl", "predictions.parquet", "model.safetensors", "environment.json")


class Run:
    """One run's folder; its files are read when first asked for."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def __repr__(self):
        return f"Run({self.folder.name})"

    @property
    def finished(self) -> bool:
        return all((self.folder / name).is_file() for name in FILES)

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment().replace(**self._json("experiment.json"))

    @cached_property
    def environment(self) -> dict:
        """Versions, device, threads, seconds of training, parameters of the model, images skipped, and the checksums of the
        data and of the weights that the run started from."""
        return self._json("environment.json")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per logging step: step, loss, accuracy, lr, seconds; test_accuracy where a checkpoint was written."""
        return pd.read_json(self._path("metrics.jsonl"), lines=True)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per test image: id, label, prediction, probability, parts (K patch indices; none for plain models)."""
        return pd.read_parquet(self._path("predictions.parquet"))

    @cached_property
    def correct(self) -> pd.Series:
        """Whether each test image was right, indexed by image id."""
        frame = self.predictions.set_index("id")
        return frame["label"] == frame["prediction"]

    def _path(self, name):
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: the run is not finished, train it again")
        return path

    def _json(self, name):
        return json.loads(self._path(name).read_text())


def find_run(experiment: Experiment, runs: Path | None = None, fingerprint: str | None = None) -> Run:
    """The experiment's run below `runs` (None: the project's own), finished or not.

    fingerprint: of the data, where it is known already. Raises DataError for data that cannot be used.
    """
    fingerprint = fingerprint or open_splits(experiment)[0].fingerprint
    content = [fingerprint, weights_checksum(experiment)]
    if experiment.weights == "dinov2" or experiment.weights.startswith("timm:"):
        content.append(repr(source_of(experiment)[1:]))  # the same file may be used with other pixels and positions
    return Run((runs or runs_folder()) / experiment.hash(*content))
