"""The ablation: a grid of experiments over several seeds, and the file of records that the report's tables rest on."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from tqdm import tqdm

from .config import Experiment, report_rows
from .errors import ConfigError, DataError
from .files import write_whole
from .results import Run
from .training import find_run, fit

SEEDS = (0, 1, 2, 3, 4)
RECORDS = "data/results/ablation.parquet"
SCHEMA = 1  # raised when older files of records cannot be read any more


def grid(base: Experiment) -> dict[str, Experiment]:
    """The rows of the ablation by name: the report's own, and what it leaves open, each one change away from another."""
    rows = report_rows(base)
    overlap, mul = rows["ViT, overlap"], rows["PSM mul"]
    fewer = {"batch_size": 4 * base.batch_size, "steps": base.steps // 4, "warmup_steps": base.warmup_steps // 4}
    larger = {"image_size": base.image_size + 48, "resize_size": base.resize_size + 48}
    return rows | {
        **{f"PSM {rule}": overlap.replace(fusion=rule) for rule in ("rollout", "lowrank", "maws", "random")},
        "PSM mul, last layer fresh": mul.replace(init_last_block=True),
        "PSM mul, 2 patches a head": mul.replace(top_k=2),
        **{f"{name}, larger image": row.replace(**larger) for name, row in (("ViT, overlap", overlap), ("PSM mul", mul))},
        **{f"{name}, larger batch": row.replace(**fewer) for name, row in (("ViT, overlap", overlap), ("PSM mul", mul))},
    }


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


def ablate(rows: dict[str, Experiment], seeds: Iterable[int] = SEEDS) -> pd.DataFrame:
    """Run what is not done yet of a grid, one after the other, and return its records."""
    todo = jobs(rows, seeds)
    return collect({job: fit(experiment) for job, experiment in tqdm(todo.items(), "ablation", unit="run")})


def collect(runs: dict[tuple[str, int], Run]) -> pd.DataFrame:
    """The records of finished runs: a line a (row, seed, test image), columns row, seed, id, label, prediction,
    probability, parts; in `attrs`, how each run was made."""
    frames = [run.predictions.assign(row=name, seed=seed) for (name, seed), run in runs.items()]
    records = pd.concat(frames, ignore_index=True)
    records["row"] = records["row"].astype(pd.CategoricalDtype(dict.fromkeys(name for name, _ in runs)))
    made = [
        {"row": name, "seed": seed, "experiment": dataclasses.asdict(run.experiment), "environment": run.environment}
        for (name, seed), run in runs.items()
    ]
    records.attrs = {"schema": SCHEMA, "runs": made}
    return records


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


def rerun(records: pd.DataFrame, name: str, seed: int = 0) -> Run:
    """Train one row again from its recorded configuration, in a new folder, which is kept.

    Raises ConfigError, listing the rows or the seeds, for one that is not in the records.
    """
    made = {(entry["row"], entry["seed"]): entry for entry in records.attrs["runs"]}
    names, seeds = list(dict.fromkeys(row for row, _ in made)), sorted(number for row, number in made if row == name)
    if name not in names:
        raise ConfigError(f"no row {name!r} in the records: choose one of {'; '.join(names)}")
    if seed not in seeds:
        raise ConfigError(f"row {name!r} was not run with seed {seed}: choose one of {', '.join(map(str, seeds))}")
    return fit(Experiment().replace(**made[name, seed]["experiment"]), runs=Path(mkdtemp(prefix="rerun-")))
