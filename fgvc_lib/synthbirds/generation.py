"""A whole set of pictures, in CUB-200-2011's layout."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import current_process, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import cv2
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from ..errors import ConfigError, DataError, StorageError
from .drawing import draw
from .pose import DIFFICULTY
from .species import ATTRIBUTES, PARTS, SIZES, WORLDS, Sizes, diagnostic, known_sizes, species_list

FORMAT = {"benchmark": 2, "pretrain": 1}  # raise one when the same seed draws other pixels
CHUNK = 50                     # images a worker draws in one go
POOL_ABOVE = 2000              # smaller sets, seconds of work, are drawn without other processes
# The command line takes the names only: its parser makes a subcommand of each type in a union with a tuple.
NAMES = tyro.conf.arg(constructor=str, metavar=f"{{{','.join(SIZES)}}}", help_behavior_hint="(default: quick)")


def generate(
    root: Path, sizes: Annotated[str | Sizes, NAMES] = "quick", seed: int = 0,
    world: Literal["benchmark", "pretrain"] = "benchmark", workers: int | None = None, progress: bool = True,
) -> Path:
    """Draw the built-in birds into a folder, in CUB-200-2011's layout, and return the folder.

    Image i of a species is the same bytes for any number of workers. A finished set of the same kind is left as it is.

    Args:
        root: the folder.
        sizes: how much to draw.
        seed: another seed draws other pictures of the same species.
        world: one of two that share no species.
        workers: processes that draw a large set, one per core unless told.
        progress: show a progress bar.

    Raises:
        ConfigError: for options that do not exist.
        DataError: if the folder holds something else.
        StorageError: if it cannot be written, or if a script without `if __name__ == "__main__":` draws a large set.
    """
    root, sizes, species = Path(os.path.expanduser(root)).absolute(), known_sizes(sizes), species_list(sizes, world)
    workers = os.cpu_count() if workers is None else workers
    if not isinstance(seed, int) or not isinstance(workers, int) or seed < 0 or workers < 1:
        raise ConfigError(f"seed must be a whole number from 0, workers at least 1, not {seed} and {workers}")
    stamp = json.dumps({"format": FORMAT[world], "world": world, "seed": seed, "sizes": sizes._asdict()}, indent=1) + "\n"
    tasks = [(s, i, f"{s.folder}/{s.name}_{i + 1:04d}.jpg") for s in species for i in range(sizes.train + sizes.test)]
    try:
        if _finished(root, stamp):
            return root
        if workers > 1 and len(tasks) > POOL_ABOVE and getattr(current_process(), "_inheriting", False):
            raise SystemExit(1)  # a process that draws runs a script without a guard anew; the one that started it says so
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as folder:
            draft = Path(folder) / root.name
            for s in species:
                (draft / "images" / s.folder).mkdir(parents=True)
            drawn = _draw_all(partial(_draw_file, draft, seed, WORLDS.index(world), sizes.image_size), tasks, workers)
            rows = list(tqdm(drawn, "Drawing birds", len(tasks), unit=" images", disable=not progress, leave=False))
            _write_tables(draft, sizes, species, tasks, rows)
            (draft / "synthbirds.json").write_text(stamp)
            if not _finished(root, stamp):                    # someone else may have been faster
                draft.replace(root)
    except OSError as error:
        raise StorageError(f"cannot write the bird set to {root} ({error.strerror or error}): "
                           "free some space or choose another folder") from error
    except BrokenProcessPool as error:
        raise StorageError(f"the processes that draw {root} ended early: in a script, put the call below "
                           '`if __name__ == "__main__":`, or draw first, with `python -m fgvc_lib draw`') from error
    return root


def _finished(root, stamp):
    """Whether the set is there; DataError if something else is."""
    file = root / "synthbirds.json"
    if file.is_file() and file.read_text() == stamp:
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        way = "delete it or use" if file.is_file() else "use"  # birds can be drawn again, what else is there perhaps not
        raise DataError(f"{root} holds something other than this bird set: {way} another folder")
    return False


def _draw_all(draw_one, tasks, workers):
    """Yield what `draw_one` returns of each task, in order."""
    if workers == 1 or len(tasks) <= POOL_ABOVE:
        yield from map(draw_one, tasks)
    else:
        spawn = get_context("spawn")                          # a fork of a process with threads may hang
        with ProcessPoolExecutor(min(workers, len(tasks) // CHUNK + 1), spawn, cv2.setNumThreads, (1,)) as pool:
            yield from pool.map(draw_one, tasks, chunksize=CHUNK)


def _draw_file(folder, seed, world, size, task):
    """Draw and save one image; its task is (species, image index, file). Returns its (box, parts)."""
    species, index, file = task
    rng = np.random.default_rng([seed, world, species.index, index])
    image, *row = draw(species, rng, size)
    Image.fromarray(image).save(folder / "images" / file, quality=int(rng.integers(*DIFFICULTY.quality, endpoint=True)))
    return row


def _write_tables(root, sizes, species, tasks, rows):
    """CUB's index files, and what sets each species apart from its siblings."""
    (root / "parts").mkdir()
    siblings = [(a, b) for a in species for b in species if a != b and a.genus == b.genus]
    tables = {
        "images.txt": [(n, file) for n, (_, _, file) in enumerate(tasks, 1)],
        "image_class_labels.txt": [(n, s.index + 1) for n, (s, _, _) in enumerate(tasks, 1)],
        "train_test_split.txt": [(n, int(i < sizes.train)) for n, (_, i, _) in enumerate(tasks, 1)],
        "classes.txt": [(s.index + 1, s.folder) for s in species],
        "bounding_boxes.txt": [(n, *box) for n, (box, _) in enumerate(rows, 1)],
        "parts/parts.txt": enumerate(PARTS, 1),
        "parts/part_locs.txt": [(n, k, *place) for n, (_, parts) in enumerate(rows, 1)
                                for k, place in enumerate(parts.values(), 1)],
        "attributes.csv": [("class_id", "name", "genus", *ATTRIBUTES),
                           *[(s.index + 1, s.name, s.genus, *dict(s.attributes).values()) for s in species]],
        "diagnostic_parts.csv": [("class_id", "sibling_id", "attribute", "part_id", "part_name"),
                                 *[(a.index + 1, b.index + 1, name, PARTS.index(part) + 1, part) for a, b in siblings
                                   for name in diagnostic(a, b) for part in ATTRIBUTES[name]["parts"]]],
    }
    for name, table in tables.items():
        separator = "," if name.endswith(".csv") else " "
        (root / name).write_text("".join(separator.join(map(str, row)) + "\n" for row in table))
