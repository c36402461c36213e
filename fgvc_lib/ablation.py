"""The ablation: a grid of experiments over several seeds, and the file of records that the report's tables rest on."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from .config import PROFILES, Experiment, project_path, report_rows, runs_folder
from .datasets import batches, box_views, counting_points, open_splits, part_points
from .errors import ConfigError, DataError
from .files import write_whole
from .results import Run
from .saliency import attribute, input_gradient, map_hits, patch_boxes, selection_hits
from .training import find_run, fit, load_model

SEEDS = (0, 1, 2, 3, 4)
SCHEMA = 3  # raised when older files of records cannot be read any more


def grid(base: Experiment) -> dict[str, Experiment]:
    """The rows of the ablation by name: the report's own, and what it leaves open, each one change away from another."""
    rows = report_rows(base)
    rows["EfficientNet-Lite0"] = rows["ResNet-18"].replace(model="efficientnet_lite0", weights="imagenet")
    overlap, mul = rows["ViT, overlap"], rows["PSM mul"]
    fewer = {"batch_size": 4 * base.batch_size, "steps": base.steps // 4, "warmup_steps": base.warmup_steps // 4}
    more = {"steps": 4 * base.steps, "warmup_steps": 4 * base.warmup_steps, "checkpoint_every": 4 * base.checkpoint_every}
    size = base.image_size + 48
    larger = {"image_size": size, "resize_size": base.resize_size * size // base.image_size // 2 * 2}  # the same view
    return rows | {
        **{f"PSM {rule}": overlap.replace(fusion=rule) for rule in ("rollout", "lowrank", "maws", "random")},
        "PSM mul, last layer fresh": mul.replace(init_last_block=True),
        "PSM mul, 2 patches a head": mul.replace(top_k=2),
        **{f"{name}, larger image": row.replace(**larger) for name, row in (("ViT, overlap", overlap), ("PSM mul", mul))},
        **{f"{name}, larger batch": row.replace(**fewer) for name, row in (("ViT, overlap", overlap), ("PSM mul", mul))},
        **{f"{name}, longer": row.replace(**more) for name, row in (("ViT, overlap", overlap), ("PSM mul", mul))},
    }


def photo_grid(base: Experiment) -> dict[str, Experiment]:
    """The rows for real photographs: the CNN, the ViT and the four fusions, and EfficientNet-Lite0, which does have ImageNet
    behind it, each from its pre-trained weights and from scratch."""
    rows = grid(base.replace(steps=4 * base.steps, warmup_steps=2 * base.warmup_steps, checkpoint_every=4 * base.steps))
    fused = ("PSM add", "PSM matmul", "PSM lastlayer", "PSM mul")
    rows = {name: rows[name] for name in ("ResNet-18", "ViT, overlap", *fused, "EfficientNet-Lite0")}
    return rows | {f"{name}, from scratch": row.replace(weights="") for name, row in rows.items()}


def plan(base: Experiment) -> tuple[dict[str, Experiment], tuple[int, ...], Path]:
    """What `ablate` runs on the experiment's data: the grid, its seeds, and the file that keeps its records."""
    if base.data != PROFILES[base.profile].data:
        name = project_path(base.data).resolve().name
        return photo_grid(base), SEEDS[:3], project_path(f"data/results/{base.profile}-{name}.parquet")
    return grid(base), SEEDS, project_path(f"data/results/{base.profile}.parquet")


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


def looks(run: Run, method: str | None = None) -> pd.DataFrame:
    """Where a finished run looks, a row a test image in the order of its predictions: `map_hits` of its input gradient, or
    of what another method of `saliency.attribute` says (columns map_...), and, if it selects, `selection_hits` of its parts
    (selected_...). No columns for data without boxes."""
    experiment = run.experiment
    model, (_, test) = load_model(run), open_splits(experiment)
    tested = set(run.predictions["id"])  # without those that could not be decoded
    test.drop([place for place, image in enumerate(test.ids) if image not in tested])
    if test.boxes is None:
        return pd.DataFrame(index=range(len(test)))
    boxes, counting, frames, first = box_views(test, experiment), counting_points(test, experiment), [], 0
    points = counting if test.parts is None else part_points(test, experiment)
    apart = np.full_like(points, np.nan) if test.diagnostic is None else counting  # where the data says what counts
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)  # as `fit` does before it tests
        for images, labels in batches(test, experiment):
            batch = slice(first, first := first + len(images))
            maps = attribute(model, images, labels, method) if method else input_gradient(model, images, labels)
            frames.append(map_hits(maps.numpy(), boxes[batch], points[batch], apart[batch]))
    found = pd.concat(frames, ignore_index=True).add_prefix("map_")
    if experiment.fusion:
        rows, columns = model.cfg.grid
        patches = patch_boxes(range(rows * columns), columns, model.cfg.patch_size, model.cfg.stride)
        hits = selection_hits(np.stack(run.predictions["parts"]), patches, boxes, counting)
        found = found.join(hits.add_prefix("selected_"))
    return found.astype(np.float32)


def collect(runs: dict[tuple[str, int], Run]) -> pd.DataFrame:
    """The records of finished runs: a line a (row, seed, test image), columns row, seed, those of `Run.predictions` and
    those of `looks`; in `attrs`, how each run was made."""
    frames = []
    for (name, seed), run in tqdm(runs.items(), "where they look", unit="run"):
        frames.append(run.predictions.join(looks(run)).assign(row=name, seed=seed))
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
