"""Errors that users can fix themselves; the command line prints each as one line and exits with code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class FGVCError(Exception):
    """Base of all errors below; its message is one sentence that says what is wrong and what to do."""


class ConfigError(FGVCError):
    """An option, a name or a combination of them that does not exist."""


class DataError(FGVCError):
    """A data folder, index file or image that cannot be used."""


class WeightsError(FGVCError):
    """A file of weights that does not fit the model."""


class TrainingError(FGVCError):
    """Training that cannot go on."""


class StorageError(FGVCError):
    """A folder that cannot be written to, or a full disk."""


def nearest(name: str, known: Iterable[str]) -> str:
    """For messages on an unknown name: " (did you mean …?)" with the known ones that are most like it, or ""."""
    like = get_close_matches(name, list(known))
    return f" (did you mean {' or '.join(like)}?)" if like else ""
