"""Files of weights: read by what they are, without ever running what they say; and Google's .npz, written."""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from ..errors import WeightsError
from ..files import write_whole
from .layouts import to_google

# How files that hold no weights begin.
BEGINNINGS = {
    b"version https://git-lfs": "it is Git LFS's pointer to a file that `git lfs pull` fetches",
    b"<": "it is a web page",
    b"{": "it is JSON",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them",
    b"\x1f\x8b": "it is compressed: unpack it first",
    b"\x93NUMPY": "it is a single array",
    b"\x08": "it may be an ONNX model",
    b"PK": "it is a zip archive that is cut off",
}


def read_weights(path) -> dict:
    """What a file of weights holds: Google's .npz, safetensors, or what torch.save wrote, whatever its name ends in.

    Nothing that could run code is read. Raises WeightsError for a file that is missing, damaged or something else, and for
    one that holds more than arrays.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: name the file of weights in it")
    if not path.is_file():
        raise WeightsError(f"the weights file {path} is missing: put it there (`make data` fetches those of profile full)")
    card = path.with_suffix(".md")  # of those that `pretrain` writes
    known = re.search(r"SHA-256 \| ([0-9a-fA-F]{64})", card.read_text(errors="replace")) if card.is_file() else None
    if known and hashlib.sha256(path.read_bytes()).hexdigest() != known[1].lower():
        raise WeightsError(
            f"{path} does not match the SHA-256 in {card.name}: restore both, or make both again with `pretrain`"
        )
    try:
        content = _read(path)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no state dict")
        return content
    except Exception as error:  # of every kind: the file may hold anything
        # torch and NumPy say which class they refuse, and then how to read it all the same, which would not be safe.
        if refused := re.search(r"(?s).*GLOBAL (\S+)|eights only|weights_only|Object arrays", str(error)):
            raise WeightsError(
                f"{path} holds more than arrays ({refused[1] or 'pickled objects'}), which could run code when it is read: "
                "where it comes from, save its state dict alone, torch.save(model.state_dict(), 'weights.pth')"
            ) from None
        reason = [*str(error).splitlines(), "it is cut off"][0][:200]
        raise WeightsError(
            f"{path} cannot be read as weights ({reason}): fetch it again; weights are .npz, .safetensors or PyTorch's "
            ".pth, .pt, .bin and .ckpt files"
        ) from error


def _read(path):
    """The content of a file by what it is, not by what its name ends in."""
    with path.open("rb") as file:
        start = file.read(32)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not look at the checksums
                raise ValueError(f"its part {damaged} is damaged")
            if all(name.endswith(".npy") for name in archive.namelist()):
                with np.load(path, allow_pickle=False) as arrays:
                    return dict(arrays)
    elif start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    elif not start.startswith(b"\x80"):
        words = next((words for first, words in BEGINNINGS.items() if start.startswith(first)), "it is something else")
        raise ValueError(words if start else "it is empty")
    elementary = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"} | {np.ndarray, np.dtype}
    # Arrays and numbers of NumPy's, which is safe; the second name is that of versions before 2.
    makers = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    older = [(maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers]
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([*elementary, *makers, *older]):
        return torch.load(path, map_location="cpu", weights_only=True)


def save_google(model: nn.Module, path: Path) -> None:
    """Write a ViT's weights as an .npz in Google's layout, in half precision."""
    buffer = io.BytesIO()
    np.savez(buffer, **to_google({name: tensor.half() for name, tensor in model.state_dict().items()}, model.cfg.heads))
    write_whole(path, buffer.getvalue())
