"""Fetches data sets and pre-trained weights into data/."""

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import requests
from torchvision.datasets import Flowers102, OxfordIIITPet
from tqdm import tqdm

from ..config import project_path
from ..errors import DataError, StorageError
from .catalogue import published

MOST_BYTES = 10 * 10**9  # that an archive may take unpacked; CUB-200-2011 takes 1.2


class Source(NamedTuple):
    url: str
    known_hash: str | None  # "md5:…" or "sha256:…"; None: the publisher gives none
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
AIRCRAFT = Source(
    "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
    None, "fgvc-aircraft-2013b.tar.gz", "fgvc-aircraft-2013b",
)  # fmt: skip
TORCHVISION = {"flowers": Flowers102, "pets": OxfordIIITPet}  # which fetches several files, and knows their checksums


def download_dataset(name: str) -> str:
    """Fetch a data set into data/, where its files are public. Returns a line that says where it is.

    Raises DataError, with where to get it and where to put it, for a set that asks for an agreement or has no stable place,
    and without a network.

    Args:
        name: as `data list` has it, or the start of it.
    """
    name, known = published(name)
    put = f"put into {project_path(known.folder)}: {known.layout}.\n`python -m fgvc_lib data check {name}` checks it."
    if known.advice:
        raise DataError(f"{known.title} is not fetched by this command. {known.advice}\n{known.source}, and {put}")
    if name not in TORCHVISION:
        return f"{name}: {fetch(AIRCRAFT if name == 'aircraft' else SOURCES['cub'])}"
    try:
        return f"{name}: {TORCHVISION[name](project_path(known.folder), download=True)._base_folder}"
    except Exception as error:  # of every kind: no network, a checksum, a full disk
        raise DataError(f"cannot fetch {known.title} ({error}): fetch it by hand from {known.source}, and {put}") from error


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
    Raises DataError, saying which file to put where, without a network or if the checksum does not match (the file is then
    set aside), and for an archive that cannot be unpacked or holds more than MOST_BYTES; StorageError if the folder cannot
    be written.
    """
    data = data or project_path("data")
    target, folder = data / source.path, data / source.folder
    if source.folder and folder.is_dir():
        return folder
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file():
            _download(source.url, part)
            _check(part, source.known_hash)
            part.replace(target)
        else:
            _check(target, source.known_hash)
        if source.folder:
            _unpack(target, folder)
    except (requests.RequestException, ValueError) as error:
        reason = "no connection" if isinstance(error, requests.ConnectionError) else error
        advice = f"download it on another machine and put the file at {target}"
        raise DataError(f"cannot fetch {source.url} ({reason}): {advice}") from error
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write below {data} ({reason}): free some space or make it writable") from error
    return folder if source.folder else target


def _check(path, known_hash):
    """Raise ValueError, and set the file aside, if its checksum is not the known one; None: none is known."""
    algorithm, _, wanted = (known_hash or "").partition(":")
    if not wanted:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        aside = path.replace(path.with_name(f"{path.name.removesuffix('.part')}.bad"))
        raise ValueError(f"its {algorithm.upper()} is {found}, not {wanted}, so it was set aside as {aside}")


def _download(url, part):
    """Fetch a file as `part`, of which what came before is kept."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, stream=True, timeout=60, headers=headers) as reply:
        goes_on = reply.status_code == requests.codes.partial_content
        begins = reply.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-")
        if have and (reply.status_code == requests.codes.requested_range_not_satisfiable or not begins):
            part.unlink()  # longer than the file, so not a part of it; or the server goes on from elsewhere
            return _download(url, part)
        reply.raise_for_status()
        have = have if goes_on else 0
        total = int(reply.headers.get("Content-Length", 0)) + have
        bar = tqdm(desc=part.stem, total=total or None, initial=have, unit="B", unit_scale=True)
        with bar, open(part, "ab" if have else "wb") as file:
            try:
                for chunk in reply.iter_content(1 << 20):
                    bar.update(file.write(chunk))
            except requests.RequestException:
                total = total or -1
        if total and (came := part.stat().st_size) != total:
            of = f" of {total / 1e6:,.1f}" if total > 0 else ""
            raise ValueError(f"the connection broke off after {came / 1e6:,.1f}{of} MB; fetching again goes on from there")


def _unpack(archive, folder):
    """Unpack the folder that an archive holds, all of it or nothing."""
    size = 0

    def contents(tar):
        nonlocal size
        for member in tar:
            size += max(member.size, 4096)  # what a file takes at least
            if size > MOST_BYTES:
                raise tarfile.TarError(f"it holds more than {MOST_BYTES // 10**9} GB")
            if member.isreg() or member.isdir():  # a data set needs no links, which may lead out of the folder
                yield member

    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            with tarfile.open(archive) as tar:
                bar = tqdm(contents(tar), desc=f"Unpacking {archive.name}", unit=" files")
                tar.extractall(temporary, bar, filter="data")
        except Exception as error:  # of every kind: the file may hold anything
            if getattr(error, "errno", None):  # the system's, not a decompressor's
                raise
            reason = str(error).partition(":\n")[0]  # what follows is of every kind of archive that it is not
            raise DataError(f"{archive} cannot be unpacked ({reason}): delete it and fetch it again") from error
        if not (Path(temporary) / folder.name).is_dir():
            raise DataError(f"{archive} does not hold a folder {folder.name}: delete it and fetch it again")
        shutil.move(Path(temporary) / folder.name, folder)
