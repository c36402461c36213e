"""Fetches CUB-200-2011 and pre-trained weights into data/."""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import pooch
import requests
from tqdm import tqdm

from ..config import project_path
from ..errors import DataError, StorageError


class Source(NamedTuple):
    url: str
    known_hash: str | None  # as pooch takes it, "md5:…" or "sha256:…"; None: the publisher gives none
    path: str  # where the file belongs, below data/
    folder: str = ""  # the folder that unpacking it makes, below data/; "": it is no archive


SOURCES = {
    "cub": Source(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "md5:97eceeb196236b17998738112f37df78", "CUB_200_2011.tgz", "CUB_200_2011",
    ),
    "vit": Source("https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz", None, "weights/ViT-B_16.npz"),
    "resnet": Source(
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "sha256:f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", "weights/resnet18-f37072fd.pth",
    ),
}  # fmt: skip


def fetch_all(only: Literal["all", "cub", "vit", "resnet"] = "all") -> str:
    """Fetch what profile `full` needs into data/: CUB-200-2011, and the weights of the ViT and of the ResNet.

    Returns a line for each, saying where it is. One that cannot be fetched does not stop the others.
    Raises DataError, with a line for each that failed.
    """
    places, problems = [], []
    for name in SOURCES if only == "all" else [only]:
        try:
            places.append(f"{name}: {fetch(SOURCES[name])}")
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return "\n".join(places)


def fetch(source: Source, data: Path | None = None) -> Path:
    """Fetch one source into the folder `data` (default data/), unpack it if it is an archive, return where it is.

    What is there already is kept; an interrupted download goes on where it stopped.
    Raises DataError, saying which file to put where, without a network or if the checksum does not match, and
    StorageError if the folder cannot be written.
    """
    data = data or project_path("data")
    target, folder = data / source.path, data / source.folder
    if source.folder and folder.is_dir():
        return folder
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(source.url, source.known_hash, target.name, target.parent, downloader=_download)
        if source.folder:
            _unpack(target, folder)
    except (requests.RequestException, ValueError) as error:
        reason = "no connection" if isinstance(error, requests.ConnectionError) else error
        advice = f"download it on another machine and put the file at {target}"
        raise DataError(f"cannot fetch {source.url} ({reason}): {advice}") from error
    except tarfile.TarError as error:
        raise DataError(f"{target} cannot be unpacked ({error}): delete it and fetch it again") from error
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write below {data} ({reason}): free some space or make it writable") from error
    return folder if source.folder else target


def _download(url, output_file, _):
    """A downloader for pooch that keeps what came so far in NAME.part, next to where the file will be."""
    part = Path(output_file).with_name(f"{url.rpartition('/')[2]}.part")
    have = part.stat().st_size if part.exists() else 0
    with requests.get(url, stream=True, timeout=60, headers={"Range": f"bytes={have}-"} if have else {}) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # longer than the file: not a part of it
            return _download(url, output_file, _)
        reply.raise_for_status()
        have = have if reply.status_code == requests.codes.partial_content else 0
        total = int(reply.headers.get("content-length", 0)) + have
        bar = tqdm(desc=part.stem, total=total or None, initial=have, unit="B", unit_scale=True)
        with bar, open(part, "ab" if have else "wb") as file:
            for chunk in reply.iter_content(1 << 20):
                bar.update(file.write(chunk))
        if total and part.stat().st_size != total:
            raise requests.ConnectionError("the connection broke off; fetching again goes on from there")
    part.replace(output_file)


def _unpack(archive, folder):  # pooch's Untar does without tarfile's data filter on Python 3.11
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, tarfile.open(archive) as tar:
        tar.extractall(temporary, tqdm(tar, desc=f"Unpacking {archive.name}", unit=" files"), filter="data")
        if not (Path(temporary) / folder.name).is_dir():
            raise DataError(f"{archive} does not hold a folder {folder.name}: delete it and fetch it again")
        shutil.move(Path(temporary) / folder.name, folder)
