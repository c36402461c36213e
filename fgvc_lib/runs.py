"""A run is a folder: what training leaves behind, and how it is found again."""

import hashlib
import io
import json
from functools import cached_property
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

from .config import Experiment, runs_folder
from .datasets import open_splits
from .errors import DataError, StorageError
from .weights import source_of, weights_checksum


def _with(keys, content):
    """The content, which must have these keys or columns."""
    if missing := set(keys) - set(content):
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return content


def _environment(content):
    found = _with(["data", "weights", "classes", "seconds"], dict(json.loads(content)))
    if not isinstance(found["classes"], int) or not 1 <= found["classes"] <= 10**6:
        raise ValueError(f"it says {str(found['classes'])[:20]!r} for the number of classes")
    return found


# The files of a run, and how each is read. environment.json is written last: a folder that has it is a finished run.
FILES = {
    "experiment.json": lambda content: Experiment().replace(**json.loads(content)),
    "metrics.jsonl": lambda content: _with(["step", "loss"], pd.read_json(io.BytesIO(content), lines=True)),
    "predictions.parquet": lambda content: _with(["id", "label", "prediction"], pd.read_parquet(io.BytesIO(content))),
    "model.safetensors": safetensors.torch.load,
    "environment.json": _environment,
}


class Run:
    """One run's folder; its files are read when first asked for.

    Raises DataError, naming the file, where one is missing, damaged or not what was written.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def __repr__(self):
        return f"Run({self.folder.name})"

    @property
    def finished(self) -> bool:
        return all((self.folder / name).is_file() for name in FILES)

    @cached_property
    def experiment(self) -> Experiment:
        return self._read("experiment.json")

    @cached_property
    def environment(self) -> dict:
        """Versions, device, threads, seconds of training, parameters of the model, images skipped, the run's name, and the
        checksums of the data, of the weights that the run started from, and of the run's other files."""
        return self._read("environment.json")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per logging step: step, loss, accuracy, lr, seconds; test_accuracy where a checkpoint was written."""
        return self._read("metrics.jsonl")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per test image: id, label, prediction, probability, parts (K patch indices; none for plain models)."""
        return self._read("predictions.parquet")

    @cached_property
    def correct(self) -> pd.Series:
        """Whether each test image was right, indexed by image id."""
        frame = self.predictions.set_index("id")
        return frame["label"] == frame["prediction"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The trained model's."""
        return self._read("model.safetensors")

    def damaged(self) -> dict[str, str]:
        """The files that cannot be used, and why; of a run that is not finished, among those that are there."""
        ended, found = (self.folder / "environment.json").exists(), {}
        for name in FILES:
            if ended or (self.folder / name).exists():
                try:
                    self._read(name)
                except DataError as error:
                    found[name] = str(error.__cause__)
        if ended and "environment.json" not in found and self.environment.get("run", self.folder.name) != self.folder.name:
            found["environment.json"] = "it is another run's"
        return found

    @cached_property
    def _checksums(self):
        try:
            return self.environment.get("sha256", {})
        except DataError:  # not finished, or damaged itself
            return {}

    def _read(self, name):
        path = self.folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing: the run is not finished, train it again") from error
        except OSError as error:
            raise StorageError(f"cannot read {path} ({error.strerror}): make it readable") from error
        try:
            wanted = None if name == "environment.json" else self._checksums.get(name)
            if wanted and hashlib.sha256(content).hexdigest() != wanted:
                raise ValueError("its SHA-256 is not that of what was written")
            return FILES[name](content)
        except MemoryError as error:  # which does not say that the file is damaged
            raise StorageError(f"{path} does not fit into memory: free some") from error
        except Exception as error:  # of every kind: the file may hold anything
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path} cannot be used ({reason}): train the run again, which sets it aside") from error


def find_run(experiment: Experiment, runs: Path | None = None, fingerprint: str | None = None) -> Run:
    """The experiment's run below `runs` (None: the project's own), finished or not.

    fingerprint: of the data, where it is known already. Raises DataError for data that cannot be used.
    """
    fingerprint = fingerprint or open_splits(experiment)[0].fingerprint
    content = [fingerprint, weights_checksum(experiment)]
    if experiment.weights == "dinov2" or experiment.weights.startswith("timm:"):
        content.append(repr(source_of(experiment)[1:]))  # the same file may be used with other pixels and positions
    return Run((runs or runs_folder()) / experiment.hash(*content))
