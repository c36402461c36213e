"""Stanford Dogs and iNaturalist from their official files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from ..errors import DataError
from .catalogue import WHERE
from .fingerprint import Entry
from .image_set import SPLITS, FolderSplit, ImageSet
from .listing import composed


def stanford_dogs(root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """Stanford Dogs (Khosla et al. 2011) in the official split.

    root: holds Images/, and train_list.mat and test_list.mat, there or in lists/. split: "train" or "test".
    Raises DataError, naming the file, for one that is missing or not laid out so.
    """
    root = Path(root)
    lists = root / "lists" if (root / "lists").is_dir() else root
    rows = {part: _contents(lists / f"{part}_list.mat", _dogs_list) for part in SPLITS}
    folder_of = {label: file.partition("/")[0] for part in SPLITS for file, label in rows[part]}
    for part in SPLITS:
        if other := [file for file, label in rows[part] if file.partition("/")[0] != folder_of[label]]:
            raise DataError(f"{lists / part}_list.mat gives {other[0]} the label of another breed's folder: fetch it again")
    ids = sorted(folder_of)
    return _split(
        root, split, transform, [composed(folder_of[one].partition("-")[2] or folder_of[one]) for one in ids],
        [
            Entry(number, part, ids.index(label), root / "Images" / file)
            for part in SPLITS
            for number, (file, label) in enumerate(rows[part], 1)
        ],
    )  # fmt: skip


def inaturalist(
    files: tuple[str, str], root: str | Path, split: str = "train", transform: Callable | None = None
) -> ImageSet:
    """iNaturalist (Van Horn et al. 2018 and 2021): the official training split, and the validation split for testing.

    files: names of the two annotation files, in COCO's format. root: holds them, and the images where they say.
    Raises DataError, naming the file, for one that is missing or not laid out so.
    """
    root = Path(root)
    tables = {part: _contents(root / name, _coco) for part, name in zip(SPLITS, files, strict=True)}
    names, _ = tables["train"]
    label_of = {class_id: label for label, class_id in enumerate(sorted(names))}
    if unknown := {class_id for _, class_id, _ in tables["test"][1]} - {*names}:
        raise DataError(f"{root / files[1]} has category {min(unknown)}, which {files[0]} has not: take both of one year")
    return _split(
        root, split, transform, [composed(names[one]) for one in label_of],
        [
            Entry(image_id, part, label_of[class_id], root / file)
            for part in SPLITS
            for image_id, class_id, file in tables[part][1]
        ],
    )  # fmt: skip


def _dogs_list(path):
    """(file, label) of each image of a list."""
    table = loadmat(path, simplify_cells=True)
    files, labels = (np.atleast_1d(table[key]) for key in ("file_list", "labels"))
    return [(str(file), int(label)) for file, label in zip(files, labels, strict=True)]


def _coco(path):
    """Names of the classes by their ids, and (id, class id, file) of each image."""
    table = json.loads(path.read_bytes())
    names = {int(one["id"]): str(one["name"]) for one in table["categories"]}
    class_of = {int(one["image_id"]): int(one["category_id"]) for one in table["annotations"]}
    if unknown := {*class_of.values()} - {*names}:
        raise ValueError(f"category {min(unknown)} is not among its categories")
    files = {int(one["id"]): str(one["file_name"]) for one in table["images"]}
    if len(files) < len(table["images"]) or max(map(abs, files), default=0) >= 2**63:
        raise ValueError("an id is given twice, or is too large")
    return names, [(image_id, class_of[image_id], file) for image_id, file in files.items()]


def _contents(path, read):
    """What a file holds. Raises DataError for one that is missing, empty, cut off or something else."""
    if not path.is_file():
        raise DataError(f"{path} is missing: {WHERE}")
    try:
        content = read(path)
    except Exception as error:  # of every kind: the file may hold anything
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read ({reason}): fetch it again") from error
    return content


def _split(root, split, transform, classes, entries):
    if untrained := {*range(len(classes))} - {entry.label for entry in entries if entry.split == "train"}:
        raise DataError(
            f"{root} has no training images of these classes: {', '.join(classes[i] for i in sorted(untrained)[:5])}"
        )
    return FolderSplit(root, split, entries, classes, transform)
