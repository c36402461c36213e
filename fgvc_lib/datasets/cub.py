"""CUB-200-2011 from its official files, and any folder in its layout."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import DataError
from .fingerprint import Entry
from .image_set import ImageSet, one_split


class CUB200(ImageSet):
    """CUB-200-2011 (Wah et al. 2011), or any folder in its layout, in the official split.

    root: holds images/, images.txt, image_class_labels.txt, classes.txt, train_test_split.txt and, if known,
    bounding_boxes.txt, parts/parts.txt and parts/part_locs.txt. split: "train" or "test".
    Raises DataError, naming file and line, for a folder or an index file that is not in that layout.
    """

    def __init__(self, root: str | Path, split: str = "train", transform: Callable | None = None):
        root = Path(root)
        if not root.is_dir() or not any(root.iterdir()):
            state = "empty" if root.is_dir() else "missing"
            raise DataError(f"the data folder {root} is {state}: `make data` fetches CUB-200-2011, or name another folder")
        paths = dict(_read(root / "images.txt", int, str))
        classes = dict(_read(root / "classes.txt", int, str))
        label_of = dict(_read(root / "image_class_labels.txt", int, int))
        training = dict(_read(root / "train_test_split.txt", int, int))
        position = {class_id: place for place, class_id in enumerate(classes)}
        for file, known in (("image_class_labels.txt", label_of), ("train_test_split.txt", training)):
            _same_ids(root / file, known, paths)
        for image_id, class_id in label_of.items():
            if class_id not in classes:
                file = root / "image_class_labels.txt"
                raise DataError(f"{file}: image {image_id} has class {class_id}, not in classes.txt")
        if untrained := set(classes) - {label_of[i] for i in paths if training[i]}:
            names = ", ".join(classes[c] for c in sorted(untrained)[:5])
            raise DataError(f"{root / 'train_test_split.txt'} leaves these classes without training images: {names}")

        entries = [
            Entry(image_id, "train" if training[image_id] else "test", position[label_of[image_id]], root / "images" / path)
            for image_id, path in paths.items()
        ]
        super().__init__(**one_split(root, split, entries, [*classes.values()]), transform=transform)
        self._read_annotations(root, list(classes))

    def _read_annotations(self, root, class_ids):
        if (root / "attributes.csv").exists():
            looks = pd.read_csv(root / "attributes.csv", dtype=str, keep_default_na=False).set_index("class_id")
            self.attributes = looks.reindex(map(str, class_ids)).reset_index()
        if (root / "bounding_boxes.txt").exists():
            box_of = {row[0]: row[1:] for row in _read(root / "bounding_boxes.txt", int, float, float, float, float)}
            _same_ids(root / "bounding_boxes.txt", box_of, self.ids)
            self.boxes = np.array([box_of[i] for i in self.ids], dtype=float).reshape(-1, 4)
        if (root / "parts" / "part_locs.txt").exists():
            names = dict(_read(root / "parts" / "parts.txt", int, str))
            column = {part_id: place for place, part_id in enumerate(names)}
            row_of = {image_id: row for row, image_id in enumerate(self.ids)}
            self.part_names = tuple(names.values())
            self.parts = np.zeros((len(self), len(names), 3))
            for image_id, part_id, x, y, visible in _read(root / "parts" / "part_locs.txt", int, int, float, float, int):
                if part_id not in column:
                    raise DataError(f"{root / 'parts' / 'part_locs.txt'}: part {part_id} is not in parts.txt")
                if image_id in row_of:
                    self.parts[row_of[image_id], column[part_id]] = x, y, visible
            if (root / "diagnostic_parts.csv").exists():
                self._read_diagnostic(root / "diagnostic_parts.csv", class_ids, [*names])

    def _read_diagnostic(self, path, class_ids, part_ids):
        self.diagnostic = np.zeros((len(class_ids), len(part_ids)), dtype=bool)
        columns = {"class_id": [*map(str, class_ids)], "part_id": [*map(str, part_ids)]}
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            lines = csv.DictReader(file)
            for line in lines:
                for column, known in columns.items():
                    if line.get(column) not in known:
                        raise DataError(f"{path}, line {lines.line_num}: there is no {column} {line.get(column)!r}")
                self.diagnostic[tuple(known.index(line[column]) for column, known in columns.items())] = True


def _read(path, *types):
    """Rows of an index file as tuples of `types`; the last field may hold spaces."""
    if not path.is_file():
        raise DataError(f"{path.parent} is not in CUB-200-2011's layout: the file {path} is missing")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(tuple(kind(word) for kind, word in zip(types, line.split(None, len(types) - 1), strict=True)))
        except ValueError:
            shape = " ".join(kind.__name__ for kind in types)
            raise DataError(f"{path}, line {number}: {line.strip()[:80]!r} does not read as '{shape}'") from None
    if not rows:
        raise DataError(f"{path} is empty: it must list one entry a line")
    return rows


def _same_ids(path, known, wanted):
    if missing := [i for i in wanted if i not in known]:
        raise DataError(f"{path} has no line for image {missing[0]}, which images.txt lists")
    if extra := [i for i in known if i not in wanted] if isinstance(wanted, dict) else []:
        raise DataError(f"{path} names image {extra[0]}, an id without an image: images.txt does not list it")
