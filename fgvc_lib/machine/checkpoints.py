"""The state of a training between two steps, on disk: no interruption and no damaged file costs more than a few steps."""

import io
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import StorageError, TrainingError
from ..files import set_aside, whole_file

NAMES = ("checkpoint.pt", "checkpoint-before.pt")  # the last one, and the one before it


def save_checkpoint(folder: Path, content: dict) -> None:
    """Write a run's checkpoint, and keep the one before it. Raises StorageError where the disk is full or not writable."""
    buffer = io.BytesIO()
    torch.save(content | {"run": folder.name}, buffer)
    last, before = (folder / name for name in NAMES)
    with whole_file(last) as file:
        file.write(buffer.getbuffer())
        file.flush()  # a full disk says so here, while both are still there
        if last.exists():
            last.replace(before)


def load_checkpoint(folder: Path) -> dict | None:
    """The content of a run's last checkpoint, tensors on the CPU; None where there is none.

    One that is damaged or another run's is set aside, with a word, and the one before it is taken.
    Raises StorageError where one may not be read or set aside.
    """
    content, bad = None, []
    for path in (folder / name for name in NAMES):
        if content is None and path.exists():
            try:
                content = _read(path, folder.name)
            except MemoryError as error:  # which does not say that the file is damaged
                raise StorageError(f"{path} does not fit into memory: free some") from error
            except PermissionError as error:
                raise StorageError(f"cannot read {path} ({error.strerror}): make it readable") from error
            except Exception as error:  # of every kind: the file may hold anything
                bad.append(set_aside(path, error))
    if bad:
        step = content["state"]["step"] if content else 0
        print(f"In {folder}, {', and '.join(bad)}; training goes on from step {step}.", flush=True)
    return content


def resume(folder: Path, parts: dict, state: dict, device: torch.device) -> None:
    """Bring a training to where a run's last checkpoint was written, if there is one, in place.

    parts: by name, what has a state dict. state: of the training loop; its `recent` tensors go to the device.
    Raises TrainingError for the checkpoint of another training.
    """
    if not (saved := load_checkpoint(folder)):
        return
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        state |= saved["state"]
        state["recent"] = [tuple(value.to(device) for value in pair) for pair in state["recent"]]
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"{folder} holds a checkpoint of another training: remove {' and '.join(NAMES)}") from error


def delete_checkpoints(folder: Path) -> None:
    """Remove a finished run's checkpoints, which nothing reads any more."""
    for name in NAMES:
        with suppress(OSError):
            (folder / name).unlink()


def _read(path, run):
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch itself does not look at the checksums
            raise ValueError(f"its part {damaged} is damaged")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("run") != run:
        raise ValueError("it is another run's")
    if not isinstance(content["state"]["step"], int):
        raise ValueError("it names no step")
    return content


@contextmanager
def terminating() -> Iterator[threading.Event]:
    """Within it, SIGTERM only sets the event, so that a checkpoint can be written; after it, the signal does what it did.

    Where no handler can be set, outside the main thread, SIGTERM stays as it is.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if asked.is_set():
            signal.raise_signal(signal.SIGTERM)
