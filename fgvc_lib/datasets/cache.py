"""Images decoded once, in a memory-mapped file."""

import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import StorageError
from ..files import whole_file

CHECK = 4  # bytes of CRC-32 that follow the array in the file


def cached(path: Path, shape: tuple[int, ...], decode: Callable[[int], np.ndarray]) -> np.ndarray:
    """The array (n, ...) uint8 whose row i is `decode(i)`, memory-mapped from `path` and made first where needed.

    path: SET-STATE.npy, where STATE stands for all that the rows are made of: the file of another STATE is out of date and
    goes when a new one is made. A half-written or damaged file is made again. Safe when two processes do so at once: each
    writes a file of its own and renames it, and both are the same.
    Raises StorageError if there is no room for it, and whatever `decode` raises.
    """
    found = _open(path)
    if found is None or found.shape != shape:
        _make(path, shape, decode)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        for other in path.parent.glob(f"{path.stem.partition('-')[0]}-*.npy"):
            if other != path:
                with suppress(OSError):  # another process may be reading it
                    other.unlink()
    return found


def _open(path):
    """The array of an undamaged file, else None."""
    try:
        content = np.memmap(path, mode="r")
        if zlib.crc32(content[:-CHECK]) == int.from_bytes(content[-CHECK:].tobytes()):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        pass
    return None


def _make(path, shape, decode):
    try:
        # Written in order, not through a memory map: a disk that fills up is then an error and not a crash.
        with whole_file(path) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            if shutil.disk_usage(path.parent).free < np.prod(shape):
                raise OSError("no space left for the decoded images")
            header = BytesIO()
            np.lib.format.write_array_header_2_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
            crc = _append(file, header.getvalue(), 0)
            for image in tqdm(pool.map(decode, range(shape[0])), "Caching images", shape[0], leave=False, delay=2):
                crc = _append(file, np.ascontiguousarray(image, dtype=np.uint8).tobytes(), crc)
            file.write(crc.to_bytes(CHECK))
    except StorageError as error:
        raise StorageError(f"{error}, or set cache to False") from error


def _append(file, data, crc):
    """Write `data` and return the CRC-32 of all that was written."""
    file.write(data)
    return zlib.crc32(data, crc)
