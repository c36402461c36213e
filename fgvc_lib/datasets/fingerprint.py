"""A set's fingerprint: a checksum of all it holds, by which finished runs are found."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
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

    id: int
    split: str  # train or test
    label: int  # 0-based
    path: Path


def content_fingerprint(root: Path, entries: Sequence[Entry], classes: Sequence[str]) -> str:
    """Checksum (64 hex digits) of a set: its classes in order, and every image's id, split, class and content.

    entries: the images of both splits. File names and locations do not matter.
    What was read is remembered below data/cache/, in one file for each data folder `root`; an image is read again only if
    its size or one of its times has changed. Raises DataError, naming the image, if one cannot be read.
    """
    memory = project_path(f"data/cache/digests-{checksum(str(root.resolve()))[:12]}.json")
    states = file_states(entry.path for entry in entries)
    keys = [f"{state} {str(entry.path).removeprefix(str(root))}" for state, entry in zip(states, entries, strict=True)]
    try:
        known = dict(json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):  # there is none yet, or it is damaged
        known = {}
    if unread := {key: entry.path for key, entry in zip(keys, entries, strict=True) if key not in known}:
        time.sleep(TICK)  # what is changed from now on has another time
        with _readable(), ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = tqdm(pool.map(_digest, unread.values()), "Reading images", len(unread), leave=False, delay=2)
            known |= zip(unread, digests, strict=True)
        with suppress(StorageError):  # then they are read anew each time
            write_whole(memory, json.dumps({key: known[key] for key in keys}))
    return checksum([list(classes), [(*entry[:3], known[key]) for entry, key in zip(entries, keys, strict=True)]])


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
