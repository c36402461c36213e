"""Images decoded once, in a memory-mapped file."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import StorageError
from ..files import whole_file, write_whole


def cached(path: Path, stamp: str, shape: tuple[int, ...], decode: Callable[[int], np.ndarray]) -> np.ndarray:
    """The array (n, ...) uint8 whose row i is `decode(i)`, memory-mapped from `path` and made first where needed.

    stamp: says what the rows are made of. A file of another stamp or shape, a half-written or a damaged one is made
    again. Safe when two processes do so at once: each writes a file of its own and renames it, and both are the same.
    Raises StorageError if there is no room for it, and whatever `decode` raises.
    """
    found = _open(path, stamp)
    if found is None or found.shape != shape:
        _make(path, stamp, shape, decode)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _open(path, stamp):
    try:
        mark = json.loads(path.with_suffix(".json").read_text())
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return pixels if mark == {"stamp": stamp, "crc32": zlib.crc32(pixels)} else None


def _make(path, stamp, shape, decode):
    try:
        # Written in order, not through a memory map: a disk that fills up is then an error and not a crash.
        with whole_file(path) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            if shutil.disk_usage(path.parent).free < np.prod(shape):
                raise OSError("no space left for the decoded images")
            np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            crc = 0
            for image in tqdm(pool.map(decode, range(shape[0])), "Caching images", shape[0], leave=False, delay=2):
                data = np.ascontiguousarray(image, dtype=np.uint8).tobytes()
                file.write(data)
                crc = zlib.crc32(data, crc)
        write_whole(path.with_suffix(".json"), json.dumps({"stamp": stamp, "crc32": crc}))
    except StorageError as error:
        raise StorageError(f"{error}, or set cache to False") from error
