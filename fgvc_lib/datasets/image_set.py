"""Images with labels and, where they are known, boxes and parts."""

import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from torch.utils.data import Dataset

from ..errors import ConfigError, DataError
from .fingerprint import Entry, checksum, content_fingerprint, remembered
from .photographs import FORMATS, photograph_size, read_photograph

SPLITS = ("train", "test")
READER = checksum([PIL.__version__, FORMATS])[:8]  # what one version of Pillow cannot read another may


class ImageSet(Dataset):
    """Images with labels; item i is (image as RGB, after the transform, label).

    classes: C names. paths, labels (0-based), ids: one for each image. boxes: (n, 4) x y width height in pixels, or None.
    parts: (n, P, 3) x y visible in pixels, or None; part_names: P names. diagnostic: (C, P) bool, whether a part tells
    a class from one that looks like it, or None. attributes: one row per class, what it looks like in words, or None.
    fingerprint: checksum of what both splits hold, by which a run is found. origin: which set it is, for the cache.
    remarks: what was left out of it, and why. skipped: how many images were dropped since they cannot be read.
    crops: (n, 4) left top right bottom in pixels of the files, which photographs are cut to, or None; see `crop_to_boxes`.
    """

    boxes = parts = diagnostic = attributes = crops = None
    part_names = ()
    fingerprint = origin = ""
    remarks = ()
    skipped = 0

    def __init__(self, paths, labels, classes, transform=None, ids=None, *, fingerprint=""):
        self.paths, self.labels, self.classes, self.transform = list(paths), list(labels), list(classes), transform
        self.ids = list(range(1, len(self.paths) + 1)) if ids is None else list(ids)
        if fingerprint:
            self.fingerprint = fingerprint

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = self.load(index)
        return (self.transform(image) if self.transform else image), self.labels[index]

    @property
    def upright(self) -> bool:
        """Whether photographs are turned as their EXIF data says: not where boxes or parts count the files' own pixels."""
        return self.boxes is None and self.parts is None

    def load(self, index: int) -> Image.Image:
        """The photograph as RGB, see `read_photograph`. Raises DataError if it cannot be read, or its crop is empty."""
        photograph = read_photograph(self.paths[index], upright=self.upright)[0]
        return photograph if self.crops is None else photograph.crop(self._frame(index, photograph.size))

    def sizes(self) -> np.ndarray:
        """(n, 2) width and height of the photographs in pixels, from the files' headers; of what the crops leave of them.

        Raises DataError for a file that is no photograph.
        """
        sizes = [photograph_size(path) for path in self.paths]
        if self.crops is not None:
            frames = [self._frame(index, size) for index, size in enumerate(sizes)]
            sizes = [(right - left, bottom - top) for left, top, right, bottom in frames]
        return np.array(sizes).reshape(-1, 2)

    def crop_to_boxes(self) -> None:
        """Cut each photograph to its box, widened to whole pixels and clipped at the edges; boxes and parts move along.

        Raises DataError where there are no boxes, or one has no area.
        """
        if self.boxes is None:
            raise DataError("the data has no boxes around the birds: set crop_to_box to False")
        sound = np.isfinite(self.boxes).all(1) & (self.boxes[:, 2:] > 0).all(1)
        if not sound.all():
            raise DataError(f"the box of image {self.ids[sound.argmin()]} has no area: mend it, or set crop_to_box to False")
        low, high = self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]
        self.crops = np.concatenate([np.floor(low).clip(0), np.ceil(high)], axis=1).astype(int)
        corner = self.crops[:, :2]
        self.boxes = self.boxes - np.pad(corner, ((0, 0), (0, 2)))
        if self.parts is not None:
            self.parts = self.parts - np.pad(corner, ((0, 0), (0, 1)))[:, None]
        self.origin += " cropped"

    def _frame(self, index, size):
        """The crop of a photograph of (width, height), clipped at its right and lower edge."""
        left, top, right, bottom = np.minimum(self.crops[index], [*size, *size]).tolist()
        if left >= right or top >= bottom:
            raise DataError(f"{self.paths[index]} has a box that lies outside it: mend the box, or set crop_to_box to False")
        return left, top, right, bottom

    def drop(self, indices: list[int]) -> None:
        """Leave out some images."""
        keep = sorted(set(range(len(self))) - set(indices))
        for name in ("paths", "labels", "ids"):
            setattr(self, name, [getattr(self, name)[i] for i in keep])
        for name in ("boxes", "parts", "crops"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[keep])


class FolderSplit(ImageSet):
    """One split of a data folder whose two splits hold `entries`.

    Raises ConfigError for a split that is neither train nor test, and DataError, naming it, for a file that is not there or
    that two entries name.
    """

    def __init__(
        self, root: Path, split: str, entries: Sequence[Entry], classes: Sequence[str], transform: Callable | None = None
    ):
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}: choose train or test")
        # Whatever it is called: Path.is_file raises of some names.
        if lost := [entry for entry in entries if not os.path.isfile(entry.path)]:
            which = f"image {lost[0].id} has no file {lost[0].path}" + f", nor have {len(lost) - 1:,} more" * (len(lost) > 1)
            raise DataError(f"{root}: {which}: restore it or take it out of the set")
        known = {}
        for entry in entries:
            if (other := known.setdefault(entry.path, entry)) is not entry:
                raise DataError(f"{root}: images {other.id} and {entry.id} are one file, {entry.path}: keep one of them")
        chosen = [entry for entry in entries if entry.split == split]
        paths, labels, ids = ([getattr(entry, name) for entry in chosen] for name in ("path", "label", "id"))
        super().__init__(paths, labels, classes, transform, ids)
        self.root, self.entries, self.origin = root, entries, f"{root.resolve()} {split}"

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of what both splits hold, see `content_fingerprint`."""
        return content_fingerprint(self.root, self.entries, self.classes)

    def flaws(self) -> dict[int, str]:
        """Why images cannot be read, by their index. What was seen of an unchanged file is remembered, of both splits."""
        seen = remembered(f"flaws-{READER}", self.root, [entry.path for entry in self.entries], _flaw)
        flaw = {entry.path: text for entry, text in zip(self.entries, seen, strict=True)}
        found = {index: flaw[path] for index, path in enumerate(self.paths) if flaw[path]}
        for index in sorted({*range(len(self))} - {*found}) if self.crops is not None else ():
            try:
                self._frame(index, photograph_size(self.paths[index]))
            except DataError as error:
                found[index] = str(error)
        return found

    def skip_broken(self) -> None:
        """Leave out the images that cannot be read."""
        broken = self.flaws()
        self.drop([*broken])
        self.skipped += len(broken)

    def check(self) -> None:
        """Read every image once. Raises DataError, naming the first, if some cannot be read."""
        if broken := [*self.flaws().values()]:
            which = f"it and {len(broken) - 1} more" if len(broken) > 1 else "it"
            raise DataError(f"{broken[0]}, or leave {which} out with skip_broken (SKIP_BROKEN=1, or --skip-broken)")


def _flaw(path):
    """Why an image cannot be read, or ""."""
    try:
        read_photograph(path)
    except DataError as error:
        return str(error)
    return ""


def class_title(name: str) -> str:
    """A class's name to read: '004.Purple_Finch' -> 'Purple Finch'."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ").strip() or repr(name)
