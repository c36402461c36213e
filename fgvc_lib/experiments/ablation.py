"""The ablation: a grid of experiments over several seeds, and the file of records that the report's tables rest on."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import torch
from tqdm import tqdm

from ..config import PROFILES, Experiment, project_path, runs_folder
from ..errors import ConfigError, DataError
from ..files import write_whole
from ..runs import Run, find_run
from ..training import fit
from .localisation import localise
from .variants import ablation_variants, photo_variants

SEEDS = (0, 1, 2, 3, 4)
SCHEMA = 3  # raised when older files of records cannot be read any more


def plan(base: Experiment) -> tuple[dict[str, Experiment], tuple[int, ...], Path]:
    """What `ablate` runs on the experiment's data: the grid, its seeds, and the file that keeps its records."""
    if base.data != PROFILES[base.profile].data:
        name = project_path(base.data).resolve().name
        return photo_variants(base), SEEDS[:3], project_path(f"data/results/{base.profile}-{name}.parquet")
    return ablation_variants(base), SEEDS, project_path(f"data/results/{base.profile}.parquet")


def jobs(rows: dict[str, Experiment], seeds: Iterable[int] = SEEDS) -> dict[tuple[str, int], Experiment]:
    """Each row with each seed, seed by seed, so that a grid that is stopped has whole seeds."""
    return {(name, seed): row.replace(seed=seed) for seed in seeds for name, row in rows.items()}


def progress(rows: dict[str, Experiment], seeds: Iterable[int] = SEEDS) -> pd.DataFrame:
    """A row a row of the grid, a column a seed: the test accuracy of a finished run, else "" (in part: "under way")."""
    table = pd.DataFrame("", index=list(rows), columns=list(seeds))
    for (name, seed), experiment in jobs(rows, seeds).items():
        run = find_run(experiment)
        if run.finished:
            table.loc[name, seed] = f"{run.correct.mean():.1%}"
        elif run.folder.exists():
            table.loc[name, seed] = "under way"
    return table


def ablate(rows: dict[str, Experiment], seeds: Iterable[int] = SEEDS, ray_address: str | None = None) -> pd.DataFrame:
    """Run what is not done yet of a grid and return its records.

    One run after the other in this process; or, with a `ray_address` ("auto": the cluster this machine is part of, "local":
    one started for the purpose), a Ray task a run on every worker of a cluster that shares this project's folder.
    """
    todo = jobs(rows, seeds)
    if ray_address:
        _on_ray(list(todo.values()), ray_address)
    return collect({job: fit(experiment) for job, experiment in tqdm(todo.items(), "ablation", unit="run")})


def _on_ray(experiments, address):
    """Run experiments as Ray tasks: a core each, or a quarter of a GPU; retried, from the checkpoint, if a worker dies."""
    try:
        import ray
    except ImportError:
        raise ConfigError("ablate on Ray needs the extra `ray`: pip install 'fgvc_lib[ray]'") from None
    ray.init(address, ignore_reinit_error=True, log_to_driver=False)
    gpus = ray.cluster_resources().get("GPU", 0)
    task = ray.remote(num_cpus=1, num_gpus=0.25 if gpus else 0, max_retries=5)(_task)
    waiting = [task.remote(experiment, str(project_path(".").resolve()), str(runs_folder())) for experiment in experiments]
    with tqdm(total=len(waiting), desc="ablation on Ray", unit="run") as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            bar.update(len(done))


def _task(experiment, project, runs):
    os.chdir(project)
    torch.set_num_threads(1)
    fit(experiment, progress=False, runs=Path(runs))


def collect(runs: dict[tuple[str, int], Run]) -> pd.DataFrame:
    """The records of finished runs: a line a (row, seed, test image), columns row, seed, those of `Run.predictions` and
    those of `looks`; in `attrs`, how each run was made."""
    frames = []
    for (name, seed), run in tqdm(runs.items(), "where they look", unit="run"):
        frames.append(run.predictions.join(localise(run)).assign(row=name, seed=seed))
    records = pd.concat(frames, ignore_index=True)
    records["row"] = records["row"].astype(pd.CategoricalDtype(dict.fromkeys(name for name, _ in runs)))
    made = [
        {"row": name, "seed": seed, "run": run.folder.name, "environment": run.environment,
         "experiment": dataclasses.asdict(run.experiment.replace(data=""))}
        for (name, seed), run in runs.items()
    ]  # fmt: skip
    records.attrs = {"schema": SCHEMA, "runs": json.dumps(made)}  # pandas copies what is here at every step
    return records


def made(records: pd.DataFrame) -> list[dict]:
    """How each run of some records was made: row, seed, run (its folder's name), experiment (without the data's folder),
    environment."""
    return json.loads(records.attrs["runs"])


def write_records(records: pd.DataFrame, path: Path) -> None:
    """Keep records as one parquet file."""
    write_whole(path, records.to_parquet(compression="zstd"))


def read_records(path: Path) -> pd.DataFrame:
    """What `write_records` kept. Raises DataError for a file that is missing, damaged or of another schema."""
    try:
        records = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as records of an ablation ({error}): run `python -m fgvc_lib ablate`"
        ) from error
    if records.attrs.get("schema") != SCHEMA:
        found = records.attrs.get("schema", "none")
        raise DataError(f"{path} has schema {found}, this version reads {SCHEMA}: run `python -m fgvc_lib ablate` again")
    return records


def rerun(records: pd.DataFrame, name: str, seed: int = 0, data: str = "") -> Run:
    """Train one row again on a data folder from its recorded configuration, in a new folder, which is kept. The new folder's
    name is the recorded one only if data and weights are the same.

    Raises ConfigError, listing the rows or the seeds, for one that is not in the records.
    """
    known = {(entry["row"], entry["seed"]): entry for entry in made(records)}
    names, seeds = list(dict.fromkeys(row for row, _ in known)), sorted(number for row, number in known if row == name)
    if name not in names:
        raise ConfigError(f"no row {name!r} in the records: choose one of {'; '.join(names)}")
    if seed not in seeds:
        raise ConfigError(f"row {name!r} was not run with seed {seed}: choose one of {', '.join(map(str, seeds))}")
    experiment = Experiment().replace(**known[name, seed]["experiment"]).replace(data=data)
    return fit(experiment, runs=Path(mkdtemp(prefix="rerun-")))
