"""`explain`: what a trained model says of any photographs, and where it looked."""

import glob
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..config import active_experiment, given_path, runs_folder
from ..datasets import class_title, normalisation, read_photograph, view
from ..datasets.listing import described, list_folder, printable
from ..errors import ConfigError, DataError, FGVCError
from ..experiments.variants import report_variants
from ..files import write_whole
from ..machine.device import best_device
from ..part_selection import select
from ..runs import Run, find_run
from ..training import load_model
from . import pictures
from .insight import attention_map, look_into


def explain(photos: tuple[str, ...], run: str | None = None, out: Path = Path("explained"), json: bool = False) -> str:
    """What a trained model says of photographs, and where it looked: a picture each, and predictions.csv, in a folder.

    Args:
        photos: files, folders or patterns such as 'photos/*.jpg'.
        run: a variant of the report, such as "ViT, overlap", or a run's folder; "PSM mul" unless told.
        out: the folder.
        json: write predictions.json, too.
    """
    out = Path(os.path.expanduser(out))
    found, chosen = find_photos(photos, out), named_run(run)  # the photographs first: looking for a run may draw the birds
    print(f"Run {chosen.folder.name}: {chosen.experiment.title}")
    table = explain_photographs(found, chosen, out)
    if json:
        write_whole(out / "predictions.json", table.to_json(orient="records", indent=1))
    failed = int((table["problem"] != "").sum())
    text = "\n".join(map(_line, table.head(20).itertuples()))
    text += f"\n{len(table) - failed} of {len(table)} photographs explained; pictures and predictions.csv are in {out}"
    if failed:
        print(text)
        raise DataError(
            f"{failed} of {len(table)} photographs could not be read, see `problem` in {out / 'predictions.csv'}"
        )
    return text


def _line(row):
    """A photograph's row of `explain_photographs` in a line; a long name loses its middle, so that the terminal holds it."""
    if row.problem:
        return row.problem
    name, said = row.photo, f": {row.prediction}, {row.confidence:.0%}" + f"; {row.remarks}" * bool(row.remarks)
    room = max(20, shutil.get_terminal_size().columns - len(said))
    return (name if len(name) <= room else f"{name[: room // 2]}…{name[-((room - 1) // 2) :]}") + said


def find_photos(patterns: Iterable[str | Path], out: Path = Path("explained")) -> dict[Path, Path]:
    """Photographs that files, folders (with those below them) and globs name -> the path of each below what all share.

    What lies in `out`, from a run before, is left out of a folder that contains it; see `list_folder` for what else is.
    Raises ConfigError where nothing is named, DataError for a pattern that matches nothing.
    """
    found, done = [], _real(out)
    for pattern in map(os.path.expanduser, patterns):
        matches = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
        listings = [list_folder(Path(match)) for match in matches if os.path.isdir(match)]
        files = [Path(match) for match in matches if not os.path.isdir(match)]
        files += [path for listing in listings for path in listing.photographs]
        if any(_real(match) in done.parents for match in matches):
            files = [path for path in files if done not in _real(path).parents]
        unread = described(path for listing in listings for path in listing.unread)
        if not files:
            why = f", but files that are not read: {unread}" if unread else ""
            raise DataError(f"no photograph at {pattern}{why}: name files, folders or a pattern such as 'photos/*.jpg'")
        if unread:
            print(f"Not read: {unread}")
        found += files
    if not found:
        raise ConfigError("name at least one photograph, folder or pattern to explain")
    common = os.path.commonpath([_real(file).parent for file in found])
    return {file: _real(file).relative_to(common) for file in found}


def _real(path):
    return Path(os.path.realpath(path))  # Path.resolve raises at links in a circle


def named_run(name: str | None = None) -> Run:
    """A finished run by its variant's key ("psm_mul", the default) or title ("PSM mul"), or by its folder.

    Raises ConfigError, listing the titles, for a name that is none of these, and DataError for a run that is not finished,
    for a variant that was not trained, and for one whose data is not there.
    """
    name, base = name or "psm_mul", active_experiment()
    variants = report_variants(base).values()
    meant = [variant for variant in variants if name in (variant.key, variant.title)]
    folders = [folder for folder in (runs_folder() / name, given_path(name)) if folder.is_dir()]
    if not meant and not folders:
        titles = "; ".join(variant.title for variant in variants)
        raise ConfigError(f"no run {name!r}: choose a folder in {runs_folder()} or one of {titles}")
    if not meant:
        if not (run := Run(folders[0])).finished:
            raise DataError(f"the run {name!r} is not finished: train it to the end, or name another in {runs_folder()}")
        return run
    if base.data and not given_path(base.data).exists():
        raise DataError(
            f"there is no data folder {base.data}, by which PROFILE={base.profile} finds its models: say DATA=folder before "
            "the command, or name a run by its folder, which `explain` takes as --run"
        )
    experiment = meant[0].experiment
    run = find_run(experiment) if _trained(experiment) else None  # it may draw the birds
    if not run or not run.finished:
        raise DataError(
            f"no model {meant[0].title!r} has been trained in profile {base.profile}: `make report` trains it, or name a "
            f"run by its folder in {runs_folder()}; PROFILE, DATA and DATASET choose another report's"
        )
    return run


def _trained(experiment):
    """Whether a finished run has this experiment's settings, on whatever data: a look at the runs alone."""
    for folder in runs_folder().glob("*"):
        with suppress(FGVCError):  # of a run that is damaged
            if (run := Run(folder)).finished and run.experiment.hash() == experiment.hash():
                return True
    return False


def explain_photographs(photos: dict[Path, Path], run: Run, out: Path) -> pd.DataFrame:
    """Predict photographs in batches, write for each a picture of the parts and maps below `out`, and predictions.csv.

    photos: from `find_photos`. Returns one row per photograph: photo, prediction, confidence (0..1), parts (patch indices;
    none where the model selects none), picture (its path), remarks, and problem, which says why one has no prediction; the
    rest goes on. The file keeps what was done if the call is interrupted.
    Raises ConfigError where a picture would be written over one of the photographs.
    """
    places = _places(photos, out)
    experiment, device = run.experiment, best_device()
    model = load_model(run).to(device)
    names = [class_title(name) for name in run.environment["class_names"]]
    files, size, rows = list(photos), experiment.batch_size, []  # batches that fitted into memory in training
    try:
        with ThreadPoolExecutor(4) as pool, tqdm(total=len(files), desc="explain", unit="photo") as bar:
            for first in range(0, len(files), size):
                batch = files[first : first + size]
                read = list(pool.map(lambda file: _read(file, places[file], experiment), batch))
                good = [(row, image) for row, image in read if image is not None]
                if good:
                    readable, images = zip(*good, strict=True)
                    insights = look_into(model, torch.stack(images).to(device), normalisation(experiment))
                    list(pool.map(lambda row, insight: _complete(row, insight, model, names), readable, insights))
                rows += [row for row, _ in read]
                bar.update(len(batch))
    finally:
        texts = [
            {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
        ]
        table = pd.DataFrame(texts)
        write_whole(out / "predictions.csv", table.to_csv(index=False))
    return table


def _places(photos, out):
    """The path of each photograph's picture, with a number where photographs differ in their endings alone."""
    places, taken = {}, set()
    for file, path in photos.items():
        place, number = path.with_name(f"{path.stem}.jpg"), 1
        while str(place).casefold() in taken:
            number += 1
            place = path.with_name(f"{path.stem}-{number}.jpg")
        taken.add(str(place).casefold())
        places[file] = out / place
    if lost := {os.path.realpath(file) for file in photos} & {os.path.realpath(place) for place in places.values()}:
        raise ConfigError(f"the pictures in {out} would be written over photographs, as {min(lost)}: name another folder")
    return places


def _read(file, picture, experiment):
    """A row of the table, and what the model sees; None where the file cannot be read."""
    row = {"photo": str(file), "prediction": "", "confidence": np.nan, "parts": []}
    try:
        photograph, remarks = read_photograph(file)
    except DataError as error:
        return row | {"picture": "", "remarks": "", "problem": str(error)}, None
    if experiment.crop_to_box:
        remarks.append("not cropped: the model knows birds cropped to their box, so crop this one, too")
    return row | {"picture": str(picture), "remarks": "; ".join(remarks), "problem": ""}, view(photograph, experiment)


def _complete(row, insight, model, names):
    """Fill in the prediction, and draw the picture."""
    [(rule, probabilities)] = insight.probabilities.items()
    confidence, best = probabilities.max(0)
    row["prediction"], row["confidence"] = names[best], float(confidence)
    shown = {"photograph": pictures.photograph(insight.picture)}
    if rule:
        cfg, scores = model.cfg, insight.scores[rule]
        parts = select(scores[None], cfg.top_k)[0].numpy()
        row["parts"] = parts.tolist()
        marked = pictures.marked(insight.picture, parts, cfg.grid[1], cfg.patch_size, cfg.stride, cfg.top_k)
        fused = pictures.overlay(insight.picture, attention_map(scores, cfg.grid), cfg.patch_size, cfg.stride)
        shown = {"selected patches, a number a head": marked, f"attention fused by {rule}": fused}
    shown["input gradient"] = pictures.heat(insight.gradient)
    sheet = pictures.in_a_row([*shown.values()], [*shown], f"{names[best]}, {confidence:.0%} sure")
    write_whole(Path(row["picture"]), pictures.jpeg(sheet))
