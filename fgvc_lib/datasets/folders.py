"""A folder of images for each class."""

import os
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

from ..errors import DataError
from .fingerprint import Entry
from .image_set import SPLITS, FolderSplit, ImageSet
from .listing import Listing, composed, described, list_folder

# What folders of splits are called, in any case. val/ is for testing where there is no test/.
NAMES = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
PART = {name: part for part, names in NAMES.items() for name in names}

NOT_LAID_OUT = "is no folder with a folder of images for each class"


def class_folders(root: str | Path, split: str = "train", transform: Callable | None = None) -> ImageSet:
    """A folder for each class, below train/ and test/ or val/; or side by side: then every fifth image of a class is for
    testing.

    Images may lie deeper in a class's folder, and all of it in a folder more. `remarks` says what was left out, and why.
    Raises DataError for a folder that is not laid out like this, for fewer than two classes, for a class without images for
    the split, and for images that links put into two places.
    """
    root = Path(root)
    if not root.is_dir():
        why = "it is a file; unpack it" if root.exists() else "there is no such folder"
        raise DataError(f"{root} {NOT_LAID_OUT}: {why}")
    found = list_folder(root)
    if lost := [path for path in found.unread if path.is_symlink() and not path.exists()]:
        raise DataError(f"{lost[0]} is a link to what is not there: restore that, or remove the link")
    base = _base(root, found)
    found = found._replace(photographs=_once(base, found))
    folder = _splits(base, found.photographs)
    apart = folder["train"] != folder["test"]
    files = {"train": _classes(folder["train"], found)}
    if apart:
        files["test"] = _classes(folder["test"], found)
    else:
        files["test"] = {name: paths[4::5] for name, paths in files["train"].items()}
        for paths in files["train"].values():
            del paths[4::5]
    if more := sorted({*files["test"]} - {*files["train"]}):
        raise DataError(f"{folder['test']} has classes without training images: {', '.join(more[:5])}")
    classes, entries, ids = sorted(files["train"]), [], {part: count(1) for part in SPLITS}
    for label, name in enumerate(classes):
        entries += [Entry(next(ids[part]), part, label, path) for part in SPLITS for path in files[part].get(name, ())]
    images = FolderSplit(base, split, entries, classes, transform)
    if lacking := set(range(len(classes))) - {*images.labels}:
        why = "" if apart else ": without train/ and test/ it takes five images a class"
        raise DataError(f"{folder[split] / classes[min(lacking)]} has no image for split {split}{why}")
    if len(classes) < 2:
        way = f"; if the folders in it are the classes, name {folder['train'] / classes[0]}"
        deeper = any(len(_below(folder["train"], path)) > 2 for path in images.paths)
        raise DataError(f"{base} has one class, {classes[0]}: classification takes two classes or more{way * deeper}")
    images.remarks = _remarks(base, apart, len(found.photographs) - len(entries), found)
    return images


def _base(root, found: Listing):
    """The folder that holds the classes or the splits: `root`, or the only one below it that does."""
    parents = {path.parent for path in found.photographs}
    if not parents - {root}:
        why = f"it holds {described(found.unread)}, which are not read" if found.unread else "it holds no images"
        if parents:
            why = f"its images lie in it directly; if it is a class, name the folder above, {root.absolute().parent}"
        raise DataError(f"{root} {NOT_LAID_OUT}: {why}")
    base = Path(os.path.commonpath(parents - {root}))
    while base != root and (base in parents or base.name.lower() in PART):  # a class, or one split of two
        base = base.parent
    return base


def _splits(base, photographs):
    """{"train": its folder, "test": its folder}, both `base` where the classes lie side by side."""
    below = [_below(base, path) for path in photographs]
    groups, own = {parts[0] for parts in below if len(parts) > 1}, {parts[0] for parts in below if len(parts) == 2}
    named = defaultdict(list)
    for name in sorted(groups - own):
        named[PART.get(name.lower())].append(name)
    testing = "test" if "test" in named else "val"
    if len(groups) > 1 and own and all(name.lower() in PART for name in groups):
        raise DataError(f"{base / min(own)} holds images itself: put a folder for each class into it")
    if not ("train" in named and testing in named) and (own or None in named):
        return dict.fromkeys(SPLITS, base)
    for part, wanted in (("train", "train/"), (testing, "test/ or val/")):
        if len(named[part]) != 1:
            names = " and ".join(f"{name}/" for name in named[part]) or f"no {wanted} with folders of images"
            raise DataError(f"{base} has {names}: it takes one folder for training and one for testing, or neither")
    return {"train": base / named["train"][0], "test": base / named[testing][0]}


def _classes(folder, found: Listing):
    """The photographs of each class below a folder."""
    files, deeper, own = defaultdict(list), defaultdict(set), set()
    for path in found.photographs:
        name, *rest = _below(folder, path) or ("",)
        if rest:
            files[composed(name)].append(path)
            own |= {name} if len(rest) == 1 else set()
            deeper[name] |= {*rest[:-1][:1]}
    for name, inside in deeper.items():
        if name not in own and len(inside) > 1:
            first, second, *_ = sorted(inside)
            raise DataError(
                f"{folder / name} has no images of its own, but folders of images such as {first}/ and {second}/: "
                "if these are the classes, put them side by side into one folder; if not, put their images into it"
            )
    for place in found.folders:
        if place.parent == folder and composed(place.name) not in files:
            unread = [path for path in found.unread if place in path.parents]
            what = f"none that can be read: {described(unread)}" if unread else "none"
            raise DataError(f"{place} should hold a class's images and holds {what}; remove it if it is no class")
    return files


def _once(base, found: Listing):
    """The photographs below the base, those that links name twice in one class once.

    Raises DataError where a link puts images into two classes, or into training and test.
    """
    kept, seen, folders = [], list(found.again), {}
    for path in found.photographs:
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        real = os.path.realpath(path) if path.is_symlink() else os.path.join(folders[path.parent], path.name)
        if (first := folders.setdefault(real, path)) is path:
            kept.append(path)
        else:
            seen.append((path, first))
    for path, first in seen:
        places = _place(base, path), _place(base, first)
        if None not in places and places[0] != places[1] and first not in path.parents:
            raise DataError(f"{path} is the same as {first}, by a link: its images would count in two places; remove one")
    return kept


def _place(base, path):
    """The class, and split, that a path belongs to; None if it lies beside them."""
    parts = _below(base, path)
    if parts and parts[0].lower() in PART:  # val/ is often a link to test/
        return (parts[0].lower() in NAMES["train"], *map(composed, parts[1:2]))
    return composed(parts[0]) if len(parts) > 1 or (parts and path.is_dir()) else None


def _below(folder, path):
    """The parts of a path below a folder; () where it does not lie there. Much faster than pathlib's ways."""
    size = len(folder.parts)
    return path.parts[size:] if path.parts[:size] == folder.parts else ()


def _remarks(base, apart, elsewhere, found: Listing):
    """What a user should know of how a folder was read."""
    remarks = [] if apart else ["every fifth image of a class is for testing"]
    place = base.absolute()
    beside = [f"{other.name}/" for other in place.parent.iterdir() if other != place and other.name.lower() in PART]
    if beside and place.name.lower() in PART:
        remarks.append(f"{' and '.join(beside)} beside it not used: name {place.parent} for that")
    if any(path.name == "train_test_split.txt" for path in found.unread):
        remarks.append("the official split in train_test_split.txt is not used: leave out the option --dataset for that")
    counts = {"hidden or system entries": len(found.hidden), "images elsewhere in it": elsewhere}
    remarks += [f"not read: {described(found.unread)}"] if found.unread else []
    return remarks + [f"{what} left out: {number:,}" for what, number in counts.items() if number]
