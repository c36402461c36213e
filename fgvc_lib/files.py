"""Files that are written whole or not at all, and damaged ones that are set aside."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import StorageError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, beside `path`, renamed to it if all went well; creates the folder.

    Raises StorageError, naming the file, where the folder is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path} ({reason}): free some space or choose a writable folder") from error
    finally:
        with suppress(OSError):  # where all went well, it is not there any more
            temporary.unlink()


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file's content at once, see `whole_file`."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def set_aside(path: Path, reason: Exception | str) -> str:
    """Rename a file that cannot be used to NAME.bad -> what was done, in words. Raises StorageError where that fails."""
    if not path.exists():
        return f"{path.name} is missing"
    try:
        path.replace(path.with_name(f"{path.name}.bad"))
    except OSError as error:
        raise StorageError(f"{path} cannot be used, or set aside ({error.strerror}): remove it") from error
    reason = " ".join(str(reason).split())[:200] or type(reason).__name__
    return f"{path.name} cannot be used ({reason}) and is set aside as {path.name}.bad"
