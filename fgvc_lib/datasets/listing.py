"""One walk over a folder, for training and for `explain`: the photographs in it, and what else lies there."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ..errors import DataError
from .photographs import FORMATS, HEIF, is_photograph

# What systems and programs leave in folders, beside all that begins with a dot.
SYSTEM = {
    "__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "thumbnails", "thumbs", "__pycache__",
}  # fmt: skip


class Listing(NamedTuple):
    """What lies below a folder."""

    photographs: list[Path]  # in the order of their names
    folders: list[Path]  # all that were read, the folder itself first
    unread: list[Path]  # files that are no photographs
    hidden: list[Path]  # files and folders that are hidden or a system's
    again: list[tuple[Path, Path]]  # links to folders that were read before, and the folder that was


def list_folder(folder: Path) -> Listing:
    """All that lies below a folder, at any depth. Links are followed, but no folder is read twice.

    Raises DataError, naming it, for a folder that cannot be read, and for folders nested too deep.
    """

    def refuse(error):
        raise DataError(f"cannot read the folder {error.filename} ({error.strerror}): make it readable") from error

    def walk():
        try:
            yield from os.walk(folder, onerror=refuse, followlinks=True)
        except RecursionError:  # before Python 3.12
            raise DataError(f"the folders in {folder} lie too deep in each other: lay it out flatter") from None

    found, places = Listing([], [], [], [], []), {}
    for place, folders, files in walk():
        place = Path(place)
        first = places.setdefault(os.path.realpath(place), place)
        if first is not place:
            found.again.append((place, first))
            folders.clear()
            continue
        found.folders.append(place)
        hidden = {name for name in (*folders, *files) if name.startswith(".") or name.lower() in SYSTEM}
        found.hidden.extend(place / name for name in hidden)
        folders[:] = sorted({*folders} - hidden, key=composed)
        for path in (place / name for name in files if name not in hidden):
            (found.photographs if is_photograph(path) else found.unread).append(path)
    found.photographs.sort(key=lambda path: [composed(part) for part in path.parts])
    return found


def composed(name: str) -> str:
    """A name that can be printed, with composed letters, whichever way the disk that it comes from keeps them."""
    return normalize("NFC", printable(name))


def printable(name: str) -> str:
    """The name of a file, its bytes that are no UTF-8 written as \\xff."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def described(unread: Iterable[Path]) -> str:
    """Files that are not read, in a few words: how many of which suffix."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in unread)
    kinds = [f"{count:,} {suffix}" for suffix, count in counts.most_common(5)]
    more = [f"{counts.total() - sum(count for _, count in counts.most_common(5)):,} more"] if len(counts) > 5 else []
    heif = f" ({HEIF})" if "HEIF" not in FORMATS and {".heic", ".heif", ".hif"} & {*counts} else ""
    return ", ".join(kinds + more) + heif
