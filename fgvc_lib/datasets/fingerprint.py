"""A set's fingerprint: a checksum of all it holds, by which finished runs are found."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from ..config import project_path
from ..errors import DataError, StorageError
from ..files import write_whole

TICK = 0.02  # seconds: two changes of a file may carry the same time if they are no further apart


def fingerprint(root: Path, images: Sequence[tuple[int, str, str, Path]], classes: Sequence[str]) -> str:
    """Checksum (64 hex digits) of a set: the order of its classes, and id, split, class and content of every image.

    images: (id, split, name of the class, file) of both splits. Neither where the files lie nor what they are called
    counts. What was read is remembered below data/cache/, in one file for each data folder `root`; an image is read again
    only if its size or one of its times has changed. Raises DataError, naming the image, if one cannot be read.
    """
    paths = [path for *_, path in images]
    memory = project_path(f"data/cache/digests-{checksum(str(root.resolve()))[:12]}.json")
    keys = [f"{state} {str(path).removeprefix(str(root))}" for state, path in zip(file_states(paths), paths, strict=True)]
    known = _remembered(memory)
    if unread := {key: path for key, path in zip(keys, paths, strict=True) if key not in known}:
        time.sleep(TICK)  # what is changed from now on has another time
        known |= _digests(unread)
        with suppress(StorageError):  # then they are read anew each time
            write_whole(memory, json.dumps({key: known[key] for key in keys}))
    content = [list(classes), [(*about, known[key]) for (*about, _), key in zip(images, keys, strict=True)]]
    return checksum(content)


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
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = None
    return known if isinstance(known, dict) else {}


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
