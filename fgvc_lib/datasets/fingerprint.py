"""A set's fingerprint: a checksum of all it holds, by which finished runs are found."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..config import project_path
from ..errors import DataError, StorageError
from ..files import write_whole

TICK = 0.02  # seconds: two changes of a file may carry the same time if they are no further apart


class Entry(NamedTuple):
    """An image of a data folder."""

    id: int | str
    split: str  # train or test
    label: int  # 0-based
    path: Path


def content_fingerprint(root: Path, entries: Sequence[Entry], classes: Sequence[str]) -> str:
    """Checksum (64 hex digits) of a set: its classes in order, and every image's id, split, class and content.

    entries: the images of both splits. File names and locations do not matter. Raises DataError, naming the image, if one
    cannot be read.
    """
    digests = remembered("digests", root, [entry.path for entry in entries], _digest)
    return checksum([list(classes), [(*entry[:3], digest) for entry, digest in zip(entries, digests, strict=True)]])


def remembered(what: str, root: Path, paths: Sequence[Path], look: Callable[[Path], str]) -> list[str]:
    """`look(path)` of every file of a data folder `root`.

    What was seen is remembered below data/cache/, in one file for each `what` and folder; a file is looked at again only if
    its size or one of its times has changed. Raises DataError, naming it, for a file that is not there.
    """
    memory = project_path(f"data/cache/{what}-{checksum(str(root.resolve()))[:12]}.json")
    keys = [f"{state} {str(path).removeprefix(str(root))}" for state, path in zip(file_states(paths), paths, strict=True)]
    try:
        known = dict(json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):  # there is none yet, or it is damaged
        known = {}
    if unseen := {key: path for key, path in zip(keys, paths, strict=True) if key not in known}:
        time.sleep(TICK)  # what is changed from now on has another time
        with _readable(), ThreadPoolExecutor(os.cpu_count()) as pool:
            seen = tqdm(pool.map(look, unseen.values()), "Reading images", len(unseen), leave=False, delay=2)
            known |= zip(unseen, seen, strict=True)
        with suppress(StorageError):  # then they are looked at each time
            write_whole(memory, json.dumps({key: known[key] for key in keys}))
    return [known[key] for key in keys]


def checksum(content: list | str) -> str:
    """SHA-256 of anything that JSON can hold, as 64 hex digits."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def file_states(paths: Iterable[Path]) -> list[str]:
    """Size, time of the last change of content, and time of the last change of any kind, for each file; links are followed.

    Raises DataError, naming the file, if one is missing.
    """
    with _readable():
        states = [os.stat(path) for path in paths]
    return [f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}" for state in states]


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


@contextmanager
def _readable():
    try:
        yield
    except OSError as error:
        file = f"{error.filename} ({error.strerror})"
        raise DataError(f"cannot read the image {file}: remove it or make it readable") from error
