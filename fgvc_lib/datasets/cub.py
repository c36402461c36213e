"""CUB-200-2011 from its official files, any folder in its layout, and NABirds, which is nearly in it."""

import codecs
import csv
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import DataError
from .fingerprint import Entry
from .image_set import FolderSplit
from .listing import composed

# How a text file announces its encoding. UTF-32's mark begins with UTF-16's.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class CUB200(FolderSplit):
    """CUB-200-2011 (Wah et al. 2011), or any folder in its layout, in the official split.

    root: holds images/, images.txt, image_class_labels.txt, classes.txt, train_test_split.txt and, if known,
    bounding_boxes.txt, parts/parts.txt and parts/part_locs.txt. split: "train" or "test".
    Raises DataError, naming file and line, for a folder or an index file that is not in that layout.
    """

    image_id: type = int  # what the index files call an image by
    way = "`make data` fetches CUB-200-2011, or name another folder"
    inner_classes = False  # whether classes.txt lists groups of classes, too

    def __init__(self, root: str | Path, split: str = "train", transform: Callable | None = None):
        root = Path(root)
        if not root.is_dir() or not any(root.iterdir()):
            state = "empty" if root.is_dir() else "a file" if root.exists() else "missing"
            raise DataError(f"the data folder {root} is {state}: {self.way}")
        if not (root / "images.txt").exists() and len(inside := [*root.glob("*/images.txt")]) == 1:
            root = inside[0].parent  # an archive's own folder around all
        labels_file, split_file = root / "image_class_labels.txt", root / "train_test_split.txt"
        paths = dict(_read(root / "images.txt", self.image_id, str))
        classes = dict(_read(root / "classes.txt", int, str))
        class_of = dict(_read(labels_file, self.image_id, int))
        training = dict(_read(split_file, self.image_id, int))
        if self.inner_classes:
            used = {*class_of.values()}
            classes = {class_id: name for class_id, name in classes.items() if class_id in used}
        for file, known in ((labels_file, class_of), (split_file, training)):
            _check_complete(file, known, paths)
            if extra := [image_id for image_id in known if image_id not in paths]:
                raise DataError(f"{file} names image {extra[0]}, an id without an image: images.txt does not list it")

        label_of, entries = {class_id: label for label, class_id in enumerate(classes)}, []
        for image_id, path in paths.items():
            class_id, part = class_of[image_id], "train" if training[image_id] else "test"
            if class_id not in classes:
                raise DataError(f"{labels_file}: image {image_id} has class {class_id}, not in classes.txt")
            if training[image_id] not in (0, 1):
                raise DataError(f"{split_file}: image {image_id} has {training[image_id]}: 1 is for training, 0 for testing")
            entries.append(Entry(image_id, part, label_of[class_id], _file(root / "images", path)))
        if untrained := classes.keys() - {class_of[image_id] for image_id in paths if training[image_id]}:
            names = ", ".join(classes[class_id] for class_id in sorted(untrained)[:5])
            raise DataError(f"{split_file} leaves these classes without training images: {names}")
        super().__init__(root, split, entries, [composed(name) for name in classes.values()], transform)
        self._read_annotations([*classes])

    def _read_annotations(self, class_ids):
        looks, boxes = self.root / "attributes.csv", self.root / "bounding_boxes.txt"
        places, diagnostic = self.root / "parts" / "part_locs.txt", self.root / "diagnostic_parts.csv"
        if looks.exists():
            try:
                table = pd.read_csv(looks, dtype=str, keep_default_na=False).set_index("class_id", verify_integrity=True)
                self.attributes = table.loc[[*map(str, class_ids)]].reset_index()
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{looks} has no column class_id with each class once: restore or delete the file"
                ) from error
        if boxes.exists():
            box_of = {image_id: box for image_id, *box in _read(boxes, self.image_id, float, float, float, float)}
            _check_complete(boxes, box_of, self.ids)
            self.boxes = np.array([box_of[i] for i in self.ids], dtype=float).reshape(-1, 4)
        if places.exists():
            names = dict(_read(self.root / "parts" / "parts.txt", int, str))
            self.part_names = tuple(names.values())
            self.parts = np.zeros((len(self), len(names), 3))
            column = {part_id: place for place, part_id in enumerate(names)}
            row = {image_id: place for place, image_id in enumerate(self.ids)}
            for image_id, part_id, *where in _read(places, self.image_id, int, float, float, int, keys=2):
                if part_id not in column:
                    raise DataError(f"{places}: part {part_id} is not in parts.txt")
                if image_id in row:
                    self.parts[row[image_id], column[part_id]] = where
            if diagnostic.exists():
                self.diagnostic = _read_diagnostic(diagnostic, class_ids, names)


class NABirds(CUB200):
    """NABirds (Van Horn et al. 2015) in the official split: images have names for ids, and classes.txt lists all nodes of a
    tree of classes, of which those with images count.

    root, split and errors: as CUB200's.
    """

    image_id = str
    way = "`python -m fgvc_lib data download nabirds` says how to get it"
    inner_classes = True


def _read(path, *types, keys=1):
    """Rows of an index file as tuples of `types`, the first `keys` of which name a row; the last may hold spaces inside."""
    if not path.is_file():
        way = "If it has a folder for each class, say DATASET=folders, or --dataset folders"
        if (path.parent.parent / path.name).is_file():
            way = f"Name the folder above, {path.parent.parent}"
        raise DataError(f"{path.parent} is not in CUB-200-2011's layout: the file {path} is missing. {way}")
    rows, lines = [], {}
    for number, line in enumerate(re.split("\r\n|\r|\n", _text(path)), 1):
        if not line.strip():
            continue
        try:
            words = line.strip().split(None, len(types) - 1)
            rows.append(tuple(kind(word) for kind, word in zip(types, words, strict=True)))
            if any(not isinstance(value, str) and abs(value) >= 2**63 for value in rows[-1]):  # nan is not known
                raise ValueError
        except ValueError:
            shape = " ".join(kind.__name__ for kind in types)
            raise DataError(f"{path}, line {number}: {line.strip()[:80]!r} does not read as '{shape}'") from None
        if (first := lines.setdefault(rows[-1][:keys], number)) != number:
            key = " ".join(map(str, rows[-1][:keys]))
            raise DataError(f"{path}, line {number}: line {first} is of {key}, too; keep one of them")
    if not rows:
        raise DataError(f"{path} is empty: it must list one entry a line")
    return rows


def _text(path):
    """The text of a file, in the encoding that it announces or in UTF-8; other bytes stay as they are in a file's name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): make it readable") from error
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "surrogateescape")


def _file(folder, name):
    """The image that an index file calls `name`: also with images/ in front, backslashes, or letters composed otherwise."""
    path = folder / name
    if not os.path.isfile(path):
        path = folder
        for part in name.replace("\\", "/").removeprefix("images/").split("/"):
            inside = path.glob("*") if os.path.isdir(path) else ()
            path = next((other for other in inside if composed(other.name) == composed(part)), path / part)
    return path if os.path.isfile(path) else folder / name


def _check_complete(path, known, wanted):
    if missing := [image_id for image_id in wanted if image_id not in known]:
        raise DataError(f"{path} has no line for image {missing[0]}, which images.txt lists")


def _read_diagnostic(path, class_ids, part_ids):
    """(C, P) bool: whether the table has a line with this class and this part."""
    diagnostic = np.zeros((len(class_ids), len(part_ids)), dtype=bool)
    ids = {"class_id": [*map(str, class_ids)], "part_id": [*map(str, part_ids)]}
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.DictReader(file)
        for line in lines:
            for column, known in ids.items():
                if line.get(column) not in known:
                    raise DataError(f"{path}, line {lines.line_num}: there is no {column} {line.get(column)!r}")
            diagnostic[tuple(known.index(line[column]) for column, known in ids.items())] = True
    return diagnostic
