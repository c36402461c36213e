"""The ablation: variants over several seeds, and the file of records that the report's tables rest on."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import pandas as pd
import torch
from pandas.api.types import is_bool_dtype, is_integer_dtype
from tqdm import tqdm

from ..config import PROFILES, Experiment, given_path, project_path, runs_folder
from ..datasets import open_splits
from ..errors import ConfigError, DataError, FGVCError
from ..files import write_whole
from ..runs import Run, find_run
from ..training import fit
from .localisation import localise
from .statistics import values_of
from .variants import Variant, ablation_variants, photo_variants, photos_variants, title_of

SEEDS = (0, 1, 2, 3, 4)
SCHEMA = 4  # raised when older files of records cannot be read any more


def plan(base: Experiment) -> tuple[dict[str, Variant], tuple[int, ...], Path]:
    """What `ablate` runs on the experiment's data: the variants by key, their seeds, and the file for their records."""
    name = given_path(base.data).resolve().name
    if base.profile == "photos":
        return photos_variants(base), SEEDS[:3], project_path(f"data/results/photos-{name}.parquet")
    if base.data != PROFILES[base.profile].data:
        return photo_variants(base), SEEDS[:3], project_path(f"data/results/{base.profile}-{name}.parquet")
    return ablation_variants(base), SEEDS, project_path(f"data/results/{base.profile}.parquet")


def choose(variants: dict[str, Variant], names: Iterable[str]) -> dict[str, Variant]:
    """The variants of these titles or keys; all of them where no name is given.

    Raises ConfigError, listing the titles, for a name that none has.
    """
    known = {name: key for key, variant in variants.items() for name in (key, variant.title)}
    if unknown := [name for name in names if name not in known]:
        titles = "; ".join(variant.title for variant in variants.values())
        raise ConfigError(f"no variant {unknown[0]!r}: choose from {titles}")
    return {known[name]: variants[known[name]] for name in names} or variants


def jobs(variants: dict[str, Variant], seeds: Iterable[int] = SEEDS) -> dict[tuple[str, int], Experiment]:
    """Each variant's key with each seed, seed by seed, so that an ablation that is stopped has whole seeds."""
    return {(key, seed): variant.experiment.replace(seed=seed) for seed in seeds for key, variant in variants.items()}


def progress(variants: dict[str, Variant], seeds: Iterable[int] = SEEDS) -> pd.DataFrame:
    """One row per variant, by title, one column per seed: the test accuracy of a finished run, "under way", or "".

    The variants must share their data, as those of `plan` do.
    """
    table = pd.DataFrame("", index=[variant.title for variant in variants.values()], columns=list(seeds))
    todo = jobs(variants, seeds)
    fingerprint = open_splits(next(iter(todo.values())))[0].fingerprint  # once: it takes reading the data
    for (key, seed), experiment in todo.items():
        run = find_run(experiment, fingerprint=fingerprint)
        if run.folder.exists():
            table.loc[variants[key].title, seed] = f"{run.correct.mean():.1%}" if run.finished else "under way"
    return table


def ablate(
    variants: dict[str, Variant], seeds: Iterable[int] = SEEDS, ray_address: str | None = None
) -> tuple[pd.DataFrame | None, dict[tuple[str, int], str]]:
    """Run what is not done yet of an ablation -> its records, see `collect`, and why runs failed, by their variant and seed.

    One run after the other in this process; or, with a `ray_address` ("auto": the cluster this machine is part of, "local":
    one started for the purpose), one Ray task per run on every worker of a cluster that shares this project's folder. A run
    that fails is reported at once, and the others go on; the records are those of the others, None if there is no other.
    The variants must share their data, as those of `plan` do.
    Raises DataError before anything is trained if the data cannot be used, and ConfigError if Ray is asked for and is not
    installed, is not there, or runs on machines that do not see the project's folder.
    """
    todo = jobs(variants, seeds)
    fingerprint = open_splits(next(iter(todo.values())))[0].fingerprint  # the built-in birds are drawn now, once for all
    ended, found, failed = _on_ray(todo, ray_address) if ray_address else _here(todo), {}, {}
    for job, result in tqdm(ended, "ablation", len(todo), unit="run"):
        if isinstance(result, Exception):
            reason = " ".join(str(result).split())[:300]
            failed[job] = reason if isinstance(result, FGVCError) else f"{type(result).__name__}: {reason}"
            tqdm.write(f"{variants[job[0]].title}, seed {job[1]}, failed: {failed[job]}")
        else:
            found[job] = result
    runs = {job: find_run(todo[job], fingerprint=fingerprint) for job in todo if job in found}
    return collect(runs, found) if runs else None, failed


def _here(todo):
    """Run experiments one after the other -> pairs of a job and `localise` of its run, or the error it ended with."""
    for job, experiment in todo.items():
        try:
            yield job, localise(fit(experiment))
        except FGVCError as error:
            yield job, error


def _on_ray(todo, address):
    """Run experiments as Ray tasks -> what `_here` gives, in the order in which they end.

    A task has a core, or a quarter of a GPU, and is tried again, from its checkpoint, if its worker dies.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("ablate on Ray needs the extra `ray`: pip install 'fgvc_lib[ray]'") from None
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False)
    except Exception as error:  # of every kind: no cluster there, one of another version
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"no Ray cluster can be used at {address!r} ({reason}): start one, or say local") from error
    project, runs = project_path(".").resolve(), runs_folder().resolve()
    _check_shared(ray, project, runs)
    gpus = ray.cluster_resources().get("GPU", 0)
    task = ray.remote(num_cpus=1, num_gpus=0.25 if gpus else 0, max_retries=5)(_task)
    waiting = {task.remote(experiment, project, runs): job for job, experiment in todo.items()}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        try:
            result = ray.get(done)
        except Exception as error:  # of every kind: it is one run's alone
            result = getattr(error, "cause", error)  # Ray's own text is the worker's whole traceback
        yield waiting.pop(done), result


def _check_shared(ray, project, runs):
    """Raise ConfigError, naming them, if some of the cluster's machines do not see these folders, or see others there."""
    token, on = runs / f".{uuid4().hex}", ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    write_whole(token, b"")
    # A function without a name travels whole, so that a machine without this library answers, too.
    looks = ray.remote(num_cpus=0)(lambda: os.path.exists(project) and os.path.exists(token))
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    seen = ray.get([looks.options(scheduling_strategy=on(node["NodeID"], soft=False)).remote() for node in nodes])
    token.unlink(missing_ok=True)
    if blind := [node["NodeManagerHostname"] for node, sees in zip(nodes, seen, strict=True) if not sees]:
        names = ", ".join(sorted(set(blind)))
        raise ConfigError(f"{names} of the Ray cluster cannot see {runs} as it is here: share the project's folder with all")


def _task(experiment, project, runs):
    os.chdir(project)
    torch.set_num_threads(1)
    return localise(fit(experiment, progress=False, runs=runs))


def merge(older: pd.DataFrame, newer: pd.DataFrame) -> pd.DataFrame:
    """Two sets of records as one; where both have a variant with a seed, the newer run's."""
    entries = {(one["variant"], one["seed"]): one for one in made(newer)}
    kept = [one for one in made(older) if (one["variant"], one["seed"]) not in entries]
    known = pd.MultiIndex.from_tuples(entries.keys())
    rest = older[~pd.MultiIndex.from_frame(older[["variant", "seed"]]).isin(known)]
    records = pd.concat([frame.astype({"variant": str}) for frame in (rest, newer)], ignore_index=True)
    order = dict.fromkeys(one["variant"] for one in (*kept, *entries.values()))
    records["variant"] = records["variant"].astype(pd.CategoricalDtype(list(order)))
    records.attrs = {"schema": SCHEMA, "runs": json.dumps([*kept, *entries.values()])}
    return records


def collect(runs: dict[tuple[str, int], Run], looks: dict[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """The records of finished runs: one row per variant, seed and test image.

    runs: by the variant's key and the seed; looks: what `localise` says of each. Columns: those of `Run.predictions` and of
    `localise`, variant (categorical of keys) and seed; `attrs` says how each run was made, see `made`.
    """
    frames, entries = [], []
    for (key, seed), run in runs.items():
        frames.append(run.predictions.join(looks[key, seed]).assign(variant=key, seed=seed))
        entries.append({"variant": key, "seed": seed, **origin(run)})
    records = pd.concat(frames, ignore_index=True)
    records["variant"] = records["variant"].astype(pd.CategoricalDtype(dict.fromkeys(key for key, _ in runs)))
    records.attrs = {"schema": SCHEMA, "runs": json.dumps(entries)}  # text: pandas copies what is here at every step
    return records


def origin(run: Run) -> dict:
    """How a finished run was made: what `made` says of it, but for its variant and seed."""
    about = {name: run.environment[name] for name in ("data", "weights")}
    experiment = dataclasses.asdict(run.experiment.replace(data=""))
    return {"run": run.folder.name, **about, "experiment": experiment, "environment": run.environment}


def made(records: pd.DataFrame) -> list[dict]:
    """How each run of some records was made.

    variant (its key), seed, run (its folder's name), data (the data's fingerprint), weights (SHA-256 of the file it started
    from, "" where there is none), experiment (without the data's folder), environment.
    """
    return json.loads(records.attrs["runs"])


def write_records(records: pd.DataFrame, path: Path) -> None:
    """Keep records as one parquet file, as small as can be: most columns hold no value twice."""
    few = [name for name in ("variant", "rule") if name in records]
    write_whole(path, records.to_parquet(compression="zstd", compression_level=19, use_dictionary=few))


def read_records(path: Path, command: str = "ablate") -> pd.DataFrame:
    """What `write_records` kept. Raises DataError for a file that is missing, damaged, of another schema or no records.

    command: the one that makes such a file, for the error's advice.
    """
    again = f"run `python -m fgvc_lib {command}`"
    if not path.is_file():
        raise DataError(f"there are no records at {path}: {again}, for this PROFILE and DATA")
    try:
        records = pd.read_parquet(path)
        schema = records.attrs.get("schema", "none")
        if schema == SCHEMA:
            _check(records)
    except Exception as error:  # of every kind: the file may hold anything
        raise DataError(f"{path} cannot be read as records ({error}): {again}") from error
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema}, this version reads {SCHEMA}: {again} again")
    return records


def _check(records):
    """Raise an error where they are not what `collect` or `curve.curves` makes: types, values, rows, and the rows' runs."""
    curve = "rule" in records
    keys = ["rule", "k", "seed", "id"] if curve else ["variant", "seed", "id"]
    whole = ["seed", "id", *(["k", "patches"] if curve else ["label", "prediction"])]
    sound = is_bool_dtype(records["correct"]) if curve else records["probability"].between(0, 1).all()
    if not sound or not all(map(is_integer_dtype, records[whole].dtypes)) or records[keys].isna().any(axis=None):
        raise ValueError("a column holds what it should not")
    if records.empty or records.duplicated(keys).any():
        raise ValueError("it has no rows, or two of one test image")
    runs = made(records)
    if not all(isinstance(run["environment"], dict) and isinstance(run["seed"], int) for run in runs):
        raise ValueError("it does not say how its runs were made")
    if not curve and {run["variant"] for run in runs} != {*records["variant"]}:
        raise ValueError("the runs that it lists are not those of its rows")


def rerun(records: pd.DataFrame, name: str, seed: int = 0, data: str = "") -> Run:
    """Train a variant again on a data folder from its recorded configuration, in a new folder, which is kept.

    name: the variant's key or title. Raises ConfigError, listing the titles or the seeds, for one that is not recorded.
    """
    experiment = Experiment().replace(**_recorded(records, name, seed)["experiment"]).replace(data=data)
    return fit(experiment, runs=Path(mkdtemp(prefix="rerun-")))


def against_record(records: pd.DataFrame, name: str, seed: int, run: Run) -> str:
    """How a variant that was trained again compares with its record: accuracy, the spread to expect, data and weights.

    name: the variant's key or title. Raises ConfigError, listing the titles or the seeds, for one that is not recorded.
    """
    entry = _recorded(records, name, seed)
    key = entry["variant"]
    right = values_of(records, key)
    then = values_of(records, key, "prediction").loc[seed].dropna()
    now = run.predictions.set_index("id")["prediction"]
    before, after = int(right.loc[seed].sum()), run.correct.sum()
    differ = (now != then.reindex(now.index)).sum()
    if set(now.index) != set(then.index):
        result = f"{after} of {len(now)} right, recorded {before} of {len(then)}: the test images are not the same"
    elif differ:
        points = 100 * (after - before) / len(now)
        result = f"{after} of {len(now)} right, recorded {before} ({points:+.1f} points); predictions that differ: {differ}"
    else:
        result = f"the recorded accuracy to the image: {after} of {len(now)} right, as recorded"
    spread = "Only one seed is recorded, which does not say how much a result varies."
    if len(right) > 1:
        std = 100 * right.mean(axis=1).std()
        spread = (
            f"Over {len(right)} recorded seeds the accuracy has a standard deviation of {std:.1f} points. "
            "Another machine or version of torch rounds otherwise, which amounts to another seed."
        )
    lines = [f"{title_of(key)}, seed {seed}: {result}.", spread]
    for what, words in (("data", "data"), ("weights", "initial weights")):
        lines.append(f"The {words} are {'' if run.environment[what] == entry[what] else 'not '}those of the record.")
    return "\n".join(lines)


def _recorded(records, name, seed):
    """The entry of `made` for a variant, by key or title, and a seed."""
    entries = made(records)
    found = {entry["seed"]: entry for entry in entries if name in (entry["variant"], title_of(entry["variant"]))}
    if not found:
        titles = dict.fromkeys(title_of(entry["variant"]) for entry in entries)
        raise ConfigError(f"no variant {name!r} in the records: choose one of {'; '.join(titles)}")
    if seed not in found:
        raise ConfigError(f"{name!r} was not run with seed {seed}: choose one of {', '.join(map(str, sorted(found)))}")
    return found[seed]
