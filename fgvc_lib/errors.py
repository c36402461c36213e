"""Errors that users can fix themselves; the command line prints each as one line and exits with code 2."""


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
