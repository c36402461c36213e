"""Images with labels and, where they are known, boxes and parts."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps
from torch.utils.data import Dataset
from tqdm import tqdm

from ..errors import DataError


class ImageSet(Dataset):
    """Images with labels; item i is (image as RGB, after the transform, label).

    classes: C names. paths, labels (0-based), ids: one an image. boxes: (n, 4) x y width height in pixels, or None.
    parts: (n, P, 3) x y visible in pixels, or None; part_names: P names. diagnostic: (C, P) bool, whether a part tells
    a class from one that looks like it, or None. attributes: a row a class, what it looks like in words, or None.
    fingerprint: checksum of what both splits hold; a run is found by it.
    """

    boxes = parts = diagnostic = attributes = None
    part_names = ()

    def __init__(self, paths, labels, classes, transform=None, ids=None, *, fingerprint):
        self.paths, self.labels, self.classes = list(paths), list(labels), list(classes)
        self.ids = list(range(1, len(self.paths) + 1)) if ids is None else list(ids)
        self.transform, self.fingerprint = transform, fingerprint

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = self.load(index)
        return (self.transform(image) if self.transform else image), self.labels[index]

    def load(self, index: int) -> Image.Image:
        """The photograph as RGB, whatever it was (grey, CMYK, palette), and upright, unless it has boxes or parts: those
        count the file's own pixels. Raises DataError if it cannot be decoded."""
        try:
            with Image.open(self.paths[index]) as image:
                upright = ImageOps.exif_transpose(image) if self.boxes is None and self.parts is None else image
                return upright.convert("RGB")
        except Exception as error:  # Pillow's decoders raise of every kind
            raise DataError(f"cannot decode the image {self.paths[index]} ({error}): replace it or skip it") from error

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each photograph in pixels, from the files' headers."""
        return [Image.open(path).size for path in self.paths]

    def broken(self) -> list[int]:
        """Indices of the images that cannot be decoded."""

        def fails(index):
            try:
                self.load(index)
            except DataError:
                return True

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = tqdm(pool.map(fails, range(len(self))), "Checking images", len(self), leave=False, delay=2)
            return [index for index, failed in enumerate(checks) if failed]

    def drop(self, indices: list[int]) -> None:
        """Leave out some images."""
        keep = sorted(set(range(len(self))) - set(indices))
        for name in ("paths", "labels", "ids"):
            setattr(self, name, [getattr(self, name)[i] for i in keep])
        for name in ("boxes", "parts"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[keep])


def class_title(name: str) -> str:
    """A class's name to read: '004.Purple_Finch' -> 'Purple Finch'."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")
