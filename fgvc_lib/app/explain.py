"""`explain`: what a trained model says of any photographs, and where it looked."""

import glob
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..config import active_experiment, runs_folder
from ..datasets.build import open_splits
from ..datasets.image_set import class_title
from ..datasets.photographs import SUFFIXES, read_photograph
from ..datasets.views import build_transform, normalisation
from ..errors import ConfigError, DataError
from ..experiments.variants import report_variants
from ..files import write_whole
from ..report.plots import to_picture
from ..runs import Run, find_run
from ..saliency import input_gradient
from ..training import load_model
from ..vit import VisionTransformer
from . import pictures


def find_photos(patterns: Iterable[str | Path], out: Path = Path("explained")) -> dict[Path, Path]:
    """Photographs that files, folders (with those below them) and globs name -> the path of each below what all share.

    What lies in `out`, from a run before, is left out of a folder that contains it.
    Raises DataError for a pattern that matches nothing.
    """
    found = []
    if not (patterns := list(patterns)):
        raise ConfigError("name at least one photograph, folder or pattern to explain")
    for pattern in map(str, patterns):
        matches = [Path(pattern)] if Path(pattern).exists() else map(Path, sorted(glob.glob(pattern, recursive=True)))
        files = []
        for match in matches:
            inside = [file for file in sorted(match.rglob("*")) if file.suffix.lower() in SUFFIXES]
            old = out.resolve() if match.resolve() in out.resolve().parents else None
            files += [file for file in inside if old not in file.resolve().parents] if match.is_dir() else [match]
        if not files:
            raise DataError(f"no photograph at {pattern}: name files, folders or a pattern such as 'photos/*.jpg'")
        found += files
    common = os.path.commonpath([file.resolve().parent for file in found])
    return {file: file.resolve().relative_to(common) for file in found}


def named_run(name: str | None) -> Run:
    """A finished run by the name of its row in the report's table ("PSM mul", the default) or of its folder.

    Raises ConfigError, listing the rows, for a name that is neither, and DataError for a run that is not finished.
    """
    rows = report_variants(active_experiment())
    name = name or "PSM mul"
    folders = [folder for folder in (runs_folder() / name, Path(name)) if folder.is_dir()]
    run = find_run(rows[name]) if name in rows else Run(folders[0]) if folders else None
    if run is None:
        raise ConfigError(f"no run {name!r}: choose a folder in {runs_folder()} or one of {'; '.join(rows)}")
    if not run.finished:
        raise DataError(f"the run {name!r} is not finished: `make report` trains it")
    return run


def explain_photographs(photos: dict[Path, Path], run: Run, out: Path) -> pd.DataFrame:
    """Predict photographs in batches, write for each a picture of the parts and maps below `out`, and predictions.csv.

    photos: from `find_photos`. Returns a row a photograph: photo, prediction, confidence (0..1), parts (patch indices; none
    where the model selects none), picture (path), remarks, problem ("" or why there is no prediction; the rest goes on).
    The file keeps what was done if the call is interrupted.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, experiment = load_model(run).to(device), run.experiment
    transform = build_transform(experiment, train=False)
    classes = run.environment.get("class_names") or open_splits(experiment)[0].classes  # runs of before kept no names
    names, rows = [class_title(name) for name in classes], {}
    files, size = list(photos), experiment.batch_size  # what fitted into memory in training
    try:
        with ThreadPoolExecutor(4) as pool, tqdm(total=len(files), desc="explain", unit="photo") as bar:
            for first in range(0, len(files), size):
                batch = files[first : first + size]
                read = list(pool.map(lambda file: _read(file, transform), batch))
                rows |= {f: _row(f, problem=problem) for f, (_, _, problem) in zip(batch, read, strict=True) if problem}
                good = [(file, *entry[:2]) for file, entry in zip(batch, read, strict=True) if not entry[2]]
                if good:
                    images = torch.stack([image for _, image, _ in good]).to(device)
                    views = _views(model, images, experiment)
                    drawn = pool.map(lambda item: _draw(*item, out, photos, names), zip(good, views, strict=True))
                    rows |= dict(zip((file for file, *_ in good), drawn, strict=True))
                bar.update(len(batch))
    finally:
        table = pd.DataFrame([rows[file] for file in files if file in rows])
        write_whole(out / "predictions.csv", table.to_csv(index=False))
    return table


def _read(file, transform):
    try:
        image, remarks = read_photograph(file, str(file))
        return transform(image), remarks, ""
    except DataError as error:
        return None, [], str(error)


def _row(file, prediction="", confidence=np.nan, parts=(), picture="", remarks=(), problem=""):
    return {
        "photo": str(file), "prediction": prediction, "confidence": confidence, "parts": list(parts),
        "picture": str(picture), "remarks": "; ".join(remarks), "problem": problem,
    }  # fmt: skip


def _views(model, images, experiment):
    """For each image what there is to draw: probabilities, parts and fused map (None where none are), gradient, picture."""
    gradients = input_gradient(model, images, objective="logit").cpu().numpy()
    selects = isinstance(model, VisionTransformer) and model.cfg.fusion
    with torch.no_grad():
        seen = model.inspect(images) if selects else None
        probabilities = (seen.logits if selects else model(images)).softmax(-1).cpu()
    for place, image in enumerate(images.cpu()):
        parts = fused = None
        if selects:
            scores = seen.scores[place]
            parts = seen.parts[place].cpu().numpy()
            fused = (scores / scores.sum(-1, keepdim=True)).mean(0).unflatten(0, seen.grid).cpu().numpy()
        yield probabilities[place], parts, fused, gradients[place], to_picture(image, normalisation(experiment)), model


def _draw(good, view, out, photos, names):
    file, _, remarks = good
    probabilities, parts, fused, gradient, picture, model = view
    confidence, best = probabilities.max(0)
    images, titles = [pictures.photograph(picture)], ["photograph"]
    if parts is not None:
        cfg = model.cfg
        images = [pictures.marked(picture, parts, cfg.grid[1], cfg.patch_size, cfg.stride, cfg.top_k),
                  pictures.overlay(picture, fused, cfg.patch_size, cfg.stride)]  # fmt: skip
        titles = ["selected patches, a number a head", f"attention fused by {cfg.fusion}"]
    images, titles = [*images, pictures.heat(gradient)], [*titles, "input gradient"]
    caption = f"{names[best]}, {confidence:.0%} sure"
    path = out / photos[file].with_suffix(f"{photos[file].suffix}.jpg")
    write_whole(path, pictures.jpeg(pictures.in_a_row(images, titles, caption)))
    return _row(file, names[best], float(confidence), [] if parts is None else parts.tolist(), path, remarks)


def best_first(probabilities: torch.Tensor, count: int = 5) -> Sequence[tuple[int, float]]:
    """The likeliest classes with their probabilities (C,), best first."""
    values, places = probabilities.topk(min(count, len(probabilities)))
    return list(zip(places.tolist(), values.tolist(), strict=True))
