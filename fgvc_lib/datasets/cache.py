"""Images decoded once, in a memory-mapped file."""

import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import StorageError
from ..files import whole_file


def cached(path: Path, shape: tuple[int, ...], decode: Callable[[int], np.ndarray]) -> np.ndarray:
    """The array (n, ...) uint8 whose row i is `decode(i)`, memory-mapped from `path` and made first where needed.

    path: SET-STATE.npy, where STATE stands for all that the rows are made of; files of other states of the SET are removed
    when a new one is made. A half-written or damaged file is made again. Safe when two processes do so at once: each
    writes a file of its own and renames it, and both are the same.
    Raises StorageError if there is no room for it, and whatever `decode` raises.
    """
    found = _open(path, shape)
    if found is None:
        _make(path, shape, decode)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        for stale in set(path.parent.glob(f"{path.name.partition('-')[0]}-*.npy")) - {path}:
            with suppress(OSError):  # another process may be reading it
                stale.unlink()
    return found


def _open(path, shape):
    """The array of an undamaged file, else None."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        with open(path, "rb") as file:
            file.seek(pixels.offset + pixels.nbytes)
            crc = file.read()
    except Exception:  # of every kind: the file may hold anything
        return None
    sound = pixels.shape == shape and pixels.dtype == np.uint8 and crc == zlib.crc32(pixels).to_bytes(4)
    return pixels if sound else None


def _make(path, shape, decode):
    """Write the array in .npy format, followed by its CRC-32, which `np.load` passes over."""
    try:
        # In order, not through a memory map: a disk that fills up is then an error and not a crash.
        with whole_file(path) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            if shutil.disk_usage(path.parent).free < np.prod(shape):
                raise OSError("no space left for the decoded images")
            np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            crc = 0
            for image in tqdm(pool.map(decode, range(shape[0])), "Caching images", shape[0], leave=False, delay=2):
                data = np.ascontiguousarray(image, dtype=np.uint8).tobytes()
                file.write(data)
                crc = zlib.crc32(data, crc)
            file.write(crc.to_bytes(4))
    except StorageError as error:
        raise StorageError(f"{error}, or set cache to False") from error
