"""A folder that one process at a time writes to."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StorageError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run's folder, and keep other processes from writing to it meanwhile; one that is left empty goes again.

    Raises StorageError where another process writes to it already, and where it cannot be written.
    """
    # The lock stays when it is released: another process may be waiting for this very file.
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(f"another process is writing the run {folder}: wait for it, or stop it") from None
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror or error}): choose a writable folder") from error
    try:
        for rest in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            with suppress(OSError):
                rest.unlink()
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # only one that is still empty, since the experiment was refused
        lock.release()
