"""`python -m fgvc_lib …`: the report, the data and single training runs from the command line."""

import dataclasses
import sys
from json import dumps
from pathlib import Path
from typing import Literal

import tyro

from .config import BenchSetting, Experiment, active_experiment, project_path, runs_folder
from .errors import DataError, FGVCError
from .files import write_whole


def report() -> None:
    """Run every notebook in order and write build/report/index.html (PROFILE and DATA choose profile and data)."""
    from .report import build_report

    print(f"The report is {build_report().relative_to(project_path('.'))}")


def draw(
    root: tyro.conf.Positional[Path],
    sizes: str = "quick",
    seed: int = 0,
    world: Literal["benchmark", "pretrain"] = "benchmark",
    workers: int | None = None,
) -> None:
    """Draw the built-in birds into a folder, in CUB-200-2011's layout."""
    from .synthbirds import generate

    print(f"The birds are in {generate(root, sizes, seed, world, workers)}")


def data(only: Literal["all", "cub", "vit", "resnet"] = "all") -> None:
    """Fetch what profile `full` needs into data/: CUB-200-2011, and the weights of the ViT and of the ResNet."""
    from .download import SOURCES, fetch

    problems = []
    for name, source in SOURCES.items():
        if only in ("all", name):
            try:
                print(f"{name}: {fetch(source)}")
            except DataError as error:
                problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))


def train(experiment: tyro.conf.OmitArgPrefixes[Experiment]) -> None:
    """Train and test one model; its options start from the profile that PROFILE names."""
    from .results import readable, results_table
    from .training import fit

    run = fit(experiment)
    print(readable(results_table({experiment.title: run})).to_string())
    print(f"The run is in {run.folder}")


def pretrain(model: tyro.conf.Positional[Literal["vit_micro16", "resnet18"]]) -> None:
    """Train a model on the built-in birds' other world and keep its weights in data/weights/ (hours on a CPU)."""
    from .pretrain import pretrain as run

    print(f"The weights are in {run(model)}")


def ablate(dry_run: bool = False, ray: str | None = None) -> None:
    """Run every row of the ablation with five seeds (DATA=folder: those for photographs, with three); hours on a CPU.

    What is done stays, what was interrupted goes on.

    Args:
        dry_run: only show the grid and what is done.
        ray: run on this Ray cluster: "auto", "local", or an address.
    """
    from .ablation import ablate as run
    from .ablation import made, plan, progress, read_records, write_records

    rows, seeds, path = plan(active_experiment())
    if not dry_run:
        write_records(run(rows, seeds, ray), path)
    done = progress(rows, seeds)
    print(
        f"{done.to_string()}\n{(done != '').to_numpy().sum()} of {done.size} runs are done or under way in {runs_folder()}"
    )
    print(f"Recorded: {len(made(read_records(path))) if path.exists() else 'none'} in {path}")


def rerun(row: tyro.conf.Positional[str], seed: int = 0) -> None:
    """Train a row of the committed ablation again, as it is recorded, and hold the result against the record."""
    from .ablation import made, plan, read_records
    from .ablation import rerun as again
    from .results import summary, table_of

    base = active_experiment()
    records = read_records(plan(base)[2])
    run, before = again(records, row, seed, base.data), summary(records[records["row"] == row], row).loc[row]
    if run.folder.name not in [entry["run"] for entry in made(records)]:
        print("The data or the weights are not those of the record: the images may be stored differently on this machine.")
    then = table_of(records, row).loc[seed].mean()
    found = run.correct.mean()
    inside = "inside" if before["low"] <= found <= before["high"] else "outside"
    print(f"{row}, seed {seed}: {found:.1%}, recorded {then:.1%}; over {before['seeds']:.0f} seeds {before['accuracy']:.1%} "
          f"({before['low']:.1%} to {before['high']:.1%}): {inside} the interval. The run is in {run.folder}")  # fmt: skip


def explain(
    photos: tyro.conf.Positional[tuple[str, ...]], run: str | None = None, out: Path = Path("explained"), json: bool = False
) -> None:
    """What a trained model says of photographs, and where it looked: a picture each, and predictions.csv, in a folder.

    Args:
        photos: files, folders or patterns such as 'photos/*.jpg'.
        run: a row of the report's table, such as "ViT, overlap", or a run's folder; "PSM mul" unless told.
        out: the folder.
        json: write predictions.json, too.
    """
    from .explain import explain as run_on
    from .explain import find_photos, named_run

    chosen = named_run(run)
    print(f"Run {chosen.folder.name}: {chosen.experiment.title}")
    table = run_on(find_photos(photos, out), chosen, out)
    if json:
        write_whole(out / "predictions.json", table.to_json(orient="records", indent=1))
    shown = table[["photo", "prediction", "confidence", "remarks", "problem"]].head(20)
    print(shown.to_string(index=False, formatters={"confidence": lambda value: "" if value != value else f"{value:.0%}"}))
    failed = int((table["problem"] != "").sum())
    print(f"{len(table) - failed} of {len(table)} photographs explained; pictures and predictions.csv are in {out}")
    if failed:
        raise DataError(
            f"{failed} of {len(table)} photographs could not be read, see `problem` in {out / 'predictions.csv'}"
        )


def bench(setting: tyro.conf.OmitArgPrefixes[BenchSetting], quick: bool = False, json: Path | None = None) -> None:
    """Measure what part selection costs beside the plain ViT and a dense implementation (half an hour on two cores).

    Args:
        setting: what to measure.
        quick: under 3 minutes: vit_s16 at 224 and 384 pixels in 4 rounds, whatever model, sizes and repeats say.
        json: write the table, the setting and the machine to this file, too.
    """
    from . import plots
    from .bench import DENSE_REPEATS, environment, growth, loading, readable, resolve
    from .bench import bench as measure

    if quick:
        setting = dataclasses.replace(setting, model="vit_s16", sizes=(224, 384), repeats=4)
    setting = resolve(setting)
    table, rates, about = measure(setting), loading(), environment(setting)
    print(f"\n{setting.model}, stride {setting.stride}, precision {setting.precision}; {about['device']}, {about['torch']}.")
    print(f"Batches of {setting.batch_size}; ratios are of medians over {setting.repeats} rounds (dense rows: "
          f"{min(setting.repeats, DENSE_REPEATS)}), to the plain ViT.\n")  # fmt: skip
    print(readable(table).to_string())
    if len(setting.sizes) > 1:
        exponents = ", ".join(f"{row} {value:.2f}" for row, value in growth(table).items())
        print(f"\nTime of a training step grows with the patches N as N to the power of: {exponents}")
    print("Images a second on one core: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))
    figure = project_path("build/bench.png")
    write_whole(figure, plots.png(plots.cost(table, about["floor"])))
    print(f"The figure is {figure}")
    if json:
        record = {"environment": about, "setting": dataclasses.asdict(setting), "loading": rates}
        write_whole(json, dumps({**record, "rows": table.to_dict("records")}, indent=1))


def main() -> None:
    """Run a subcommand; an error a user can mend becomes one line and exit code 2."""
    try:
        default = active_experiment()

        def train_from_profile(experiment: tyro.conf.OmitArgPrefixes[Experiment] = default) -> None:
            train(experiment)

        train_from_profile.__doc__ = train.__doc__
        commands = {
            "report": report,
            "train": train_from_profile,
            "draw": draw,
            "data": data,
            "pretrain": pretrain,
            "ablate": ablate,
            "rerun": rerun,
            "explain": explain,
            "bench": bench,
        }
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m fgvc_lib", description=__doc__)
    except FGVCError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; training goes on from its last checkpoint when the same command is given again", file=sys.stderr)
        sys.exit(130)
