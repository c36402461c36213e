"""`python -m fgvc_lib COMMAND …`: what the library does, from the command line."""

import sys
import time
from importlib import import_module

import tyro

from .config import Experiment, active_experiment, profile_named, runs_folder
from .errors import ConfigError, FGVCError, TrainingError, nearest

# What each command calls, and what its list says of it. tyro makes options of the function's arguments, and what it returns
# is printed. The modules are imported when they are needed: some take seconds.
COMMANDS = {
    "report": ("report.build.build_report", "run every notebook, and write build/report/index.html"),
    "publish": ("report.publish.publish", "renew the committed notebooks, figures and tables from that report"),
    "pdf": ("report.pdf.print_report", "print the report in build/report/ as one PDF"),
    "train": ("cli.train", "train and test one model"),
    "explain": ("app.explain.explain", "what a trained model sees in photographs, with a picture for each"),
    "ablate": ("cli.ablate", "run every variant of the ablation"),
    "claims": ("report.results.print_claims", "what was measured on each claim of the course report, and the verdict"),
    "rerun": ("cli.rerun", "train a variant again, and hold the result against the record"),
    "curve": ("report.patch_curve.measure_curve", "test trained models whose last layer sees fewer and fewer patches"),
    "bench": ("report.cost.measure_cost", "measure what part selection costs"),
    "draw": ("synthbirds.generate", "draw the built-in birds into a folder"),
    "pretrain": ("experiments.pretrain.pretrain_model", "pre-train a model on built-in birds of other species"),
    "data": ("datasets.download.fetch_all", "fetch what profile `full` needs into data/"),
    "data list": ("datasets.catalogue.list_datasets", "the data sets known by name, and which files belong where"),
    "data download": ("datasets.download.download_dataset", "fetch a data set by its name into data/"),
    "data check": ("datasets.check.check_dataset", "count a data set's classes and images, and read every image"),
}

# What to say for an option that a command does not have.
SET_BEFORE = {
    "--data": "DATA=folder before the command",
    "--dataset": "DATASET=name before the command",
    "--profile": "PROFILE=name before the command",
    "--skip-broken": "SKIP_BROKEN=1 before the command",
}
INSTEAD = dict.fromkeys(("report", "explain", "ablate", "rerun", "curve", "bench"), SET_BEFORE)
INSTEAD["train"] = {"--learning-rate": "--lr", "--root": "--data"}
INSTEAD["data check"] = {"--data": "--root"}


def train(experiment: Experiment) -> str:
    """Train and test one model; its options start from the profile that PROFILE names."""
    from accelerate import PartialState

    from .report.tables import readable, results_table
    from .training import fit

    started = time.time()
    run = fit(experiment)
    if not PartialState().is_main_process:
        return ""
    old = (run.folder / "environment.json").stat().st_mtime < started
    count = run.environment["processes"]
    known = (
        f"It was finished before, by {count} process{'es' * (count > 1)}, so nothing was trained now: another "
        "seed, or RUNS=folder before the command, trains anew.\n"
    ) * old
    return f"{known}{readable(results_table({experiment.title: run})).to_string()}\nThe run is in {run.folder}"


def ablate(rows: tuple[str, ...] = (), seeds: tuple[int, ...] = (), dry_run: bool = False, ray: str | None = None) -> str:
    """Run every variant of the ablation with five seeds (DATA=folder: those for photographs, with three); hours on a CPU.

    What is done stays, what was interrupted goes on, and what is recorded already stays in the records.

    Args:
        rows: only these variants, by title or key, such as "PSM mul" or psm_mul.
        seeds: only these seeds.
        dry_run: only show the grid and what is done.
        ray: run on this Ray cluster: "auto", "local", or an address.
    """
    from .experiments import ablation

    variants, all_seeds, path = ablation.plan(active_experiment())
    variants, seeds, failed = ablation.choose(variants, rows), seeds or all_seeds, {}
    if not dry_run:
        records, failed = ablation.ablate(variants, seeds, ray)
        if records is not None:
            ablation.write_records(ablation.merge(ablation.read_records(path), records) if path.exists() else records, path)
    done = ablation.progress(variants, seeds)
    count = f"{(done != '').to_numpy().sum()} of {done.size} runs are done or under way in {runs_folder()}"
    recorded = len(ablation.made(ablation.read_records(path))) if path.exists() else "none"
    text = f"{done.to_string()}\n{count}\nRecorded: {recorded} in {path}"
    if failed:
        print(text)
        (key, seed), reason = next(iter(failed.items()))
        first = f"the first: {variants[key].title}, seed {seed}: {reason}"
        raise TrainingError(f"{len(failed)} of {done.size} runs failed ({first}); the same command runs those again")
    return text


def rerun(variant: str, seed: int = 0) -> str:
    """Train a variant of the committed ablation again, as it is recorded, and hold the result against the record.

    Args:
        variant: its title or its key, such as "PSM mul" or psm_mul.
        seed: the recorded run's.
    """
    from .experiments import ablation

    base = active_experiment()
    records = ablation.read_records(ablation.plan(base)[2])
    run = ablation.rerun(records, variant, seed, base.data)
    return f"{ablation.against_record(records, variant, seed, run)}\nThe run is in {run.folder}"


def main() -> None:
    """Run a command; an error that a user can mend becomes one line and exit code 2."""
    name, *arguments = sys.argv[1:] or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names of files and classes hold letters that not every terminal has
    try:
        if name in ("-h", "--help"):
            lines = "".join(f"\n  {command:<15}{what}" for command, (_, what) in COMMANDS.items())
            print(f"python -m fgvc_lib COMMAND …, with --help after it for its options. The commands:\n{lines}")
            return
        if arguments and f"{name} {arguments[0]}" in COMMANDS:
            name = f"{name} {arguments.pop(0)}"
        group = [command for command in COMMANDS if command.startswith(f"{name} ")]
        if group and arguments and not arguments[0].startswith("-"):
            name = f"{name} {arguments[0]}"
        if name not in COMMANDS:
            known = group or COMMANDS
            raise ConfigError(f"unknown command {name!r}{nearest(name, known)}: choose one of {', '.join(known)}")
        module, _, function = COMMANDS[name][0].rpartition(".")
        if text := _call(getattr(import_module(f".{module}", __package__), function), name, arguments):
            print(text)
    except FGVCError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; training goes on from its last checkpoint when the same command is given again", file=sys.stderr)
        sys.exit(130)


def _as_meant(chosen, base):
    """The experiment of `train`'s options, `chosen` from the profile's, `base`: where they leave the profile's length of
    training, they say all of it. Raises ConfigError for options that would change nothing."""
    if chosen.profile != base.profile:
        profile_named(chosen.profile)  # a mistyped one is told first
        raise ConfigError(f"--profile would only draw other birds: set PROFILE={chosen.profile} before the command instead")
    from .cnn import CNNS

    other = chosen.model in CNNS or chosen.model.startswith("timm:")  # an unknown one is told as such
    vits = "dropout", "init_last_block", "stride"
    for names, used, what in (
        (vits, not other, f"{chosen.model}: it is for this library's ViTs"),
        (["top_k"], chosen.fusion, "a model without part selection: give --fusion, too"),
        (["rank"], chosen.fusion == "lowrank", "this model: give --fusion lowrank, too"),
    ):
        if not used and (given := [name for name in names if getattr(chosen, name) != getattr(base, name)]):
            raise ConfigError(f"--{given[0].replace('_', '-')} changes nothing in {what}")
    if chosen.steps == base.steps:
        return chosen
    if chosen.epochs and chosen.epochs != base.epochs:
        raise ConfigError("--steps and --epochs say how long to train in two ways: give one of them")
    return chosen.replace(
        epochs=0.0, warmup_steps=min(chosen.warmup_steps, chosen.steps // 2) if base.epochs else chosen.warmup_steps
    )


def _call(function, name, arguments):
    """The function's result, its arguments read from the command line: required ones by place, settings without prefix."""
    instead = INSTEAD.get(name, {})
    if unknown := [option for one in arguments if (option := one.partition("=")[0].replace("_", "-")) in instead]:
        raise ConfigError(f"{name} has no option {unknown[0]}: say {instead[unknown[0]]}")
    prog, config = f"python -m fgvc_lib {name}", (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    if function is train:
        base = active_experiment()
        chosen = tyro.cli(Experiment, prog=prog, description=train.__doc__, default=base, args=arguments)
        return train(_as_meant(chosen, base))
    return tyro.cli(function, prog=prog, args=arguments, config=config)
