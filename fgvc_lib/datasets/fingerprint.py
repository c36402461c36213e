"""A set's fingerprint: a checksum of all it holds, by which finished runs are found."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..config import project_path
from ..errors import DataError, StorageError
from ..files import write_whole

TICK = 0.02  # seconds: two changes of a file may carry the same time if they are no further apart


class Entry(NamedTuple):
    """An image of a data folder; the label is 0-based."""

    id: int
    split: str  # train or test
    label: int
    path: Path


def content_fingerprint(root: Path, entries: Sequence[Entry], classes: Sequence[str]) -> str:
    """Checksum (64 hex digits) of a set: its classes in order, and every image's id, split, class and content.

    entries: the images of both splits. Neither where their files lie nor what they are called counts.
    What was read is remembered below data/cache/, in one file for each data folder `root`; an image is read again only if
    its size or one of its times has changed. Raises DataError, naming the image, if one cannot be read.
    """
    memory = project_path(f"data/cache/digests-{checksum(str(root.resolve()))[:12]}.json")
    paths = [entry.path for entry in entries]
    keys = [f"{state} {str(path).removeprefix(str(root))}" for state, path in zip(file_states(paths), paths, strict=True)]
    known = _remembered(memory)
    if unread := {key: path for key, path in zip(keys, paths, strict=True) if key not in known}:
        time.sleep(TICK)  # what is changed from now on has another time
        known |= _digests(unread)
        with suppress(StorageError):  # then they are read anew each time
            write_whole(memory, json.dumps({key: known[key] for key in keys}))
    images = [(*entry[:3], known[key]) for entry, key in zip(entries, keys, strict=True)]
    return checksum([list(classes), images])


def checksum(content: list | str) -> str:
    """SHA-256 of anything that JSON can hold, as 64 hex digits."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def file_states(paths: Iterable[Path]) -> list[str]:
    """Size, time of the last change of content, and time of the last change of any kind, for each file; links are followed.

    Raises DataError, naming the file, if one is missing.
    """
    try:
        states = [os.stat(path) for path in paths]
    except OSError as error:
        raise _unreadable(error) from error
    return [f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}" for state in states]


def _remembered(memory):
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
        if isinstance(known, dict):
            return known
    return {}


def _digests(files):
    """{key: path} -> {key: checksum of the file's content}."""
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(_digest, files.values())
            return dict(zip(files, tqdm(digests, "Reading images", len(files), leave=False, delay=2), strict=True))
    except OSError as error:
        raise _unreadable(error) from error


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _unreadable(error):
    return DataError(f"cannot read the image {error.filename} ({error.strerror}): remove it or make it readable")
