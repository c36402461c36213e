"""Files that are written whole or not at all."""

import os
from pathlib import Path

from .errors import StorageError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a temporary file beside `path`, then rename it; creates the folder.

    Raises StorageError, naming the file, where the folder is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path} ({reason}): free some space or choose a writable folder") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
