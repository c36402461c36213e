"""Fine-grained image sets: CUB-200-2011 from its official files, and those that torchvision reads."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert
from torchvision.transforms import v2
from tqdm import tqdm

from . import synthbirds
from .cache import cached
from .config import Experiment, project_path
from .errors import ConfigError, DataError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation torchvision's CNNs were trained with
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # and Google's ViTs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TINY = 256  # sets of fewer images are not worth a cache


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


class CUB200(ImageSet):
    """CUB-200-2011 (Wah et al. 2011), or any folder in its layout, in the official split.

    root: holds images/, images.txt, image_class_labels.txt, classes.txt, train_test_split.txt and, if known,
    bounding_boxes.txt, parts/parts.txt and parts/part_locs.txt. split: "train" or "test".
    Raises DataError, naming file and line, for a folder or an index file that is not in that layout.
    """

    def __init__(self, root, split="train", transform=None):
        root = Path(root)
        if split not in ("train", "test"):
            raise ConfigError(f"unknown split {split!r}: choose train or test")
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
                raise DataError(
                    f"{root / 'image_class_labels.txt'}: image {image_id} has class {class_id}, not in classes.txt"
                )
        if untrained := set(classes) - {label_of[i] for i in paths if training[i]}:
            names = ", ".join(classes[c] for c in sorted(untrained)[:5])
            raise DataError(f"{root / 'train_test_split.txt'} leaves these classes without training images: {names}")

        files = {image_id: root / "images" / path for image_id, path in paths.items()}
        for image_id, file in files.items():
            if not file.is_file():
                raise DataError(f"{root / 'images.txt'}: image {image_id} has no file {file}")
        ids = [i for i in paths if bool(training[i]) == (split == "train")]
        fingerprint = hashlib.sha256()
        for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "synthbirds.json"):
            fingerprint.update((root / name).read_bytes() if (root / name).exists() else b"")
        # Sizes tell a changed image at once and without reading it.
        fingerprint.update(",".join(str(file.stat().st_size) for file in files.values()).encode())
        super().__init__(
            [files[i] for i in ids], [position[label_of[i]] for i in ids], classes.values(), transform,
            ids, fingerprint=fingerprint.hexdigest(),
        )  # fmt: skip
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
                rows = pd.read_csv(root / "diagnostic_parts.csv")
                self.diagnostic = np.zeros((len(self.classes), len(names)), dtype=bool)
                places = pd.Index(class_ids).get_indexer(rows["class_id"]), pd.Index(column).get_indexer(rows["part_id"])
                self.diagnostic[places] = True


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


def _from_torchvision(kind, paths, labels, train, **options):
    """A builder for a set that torchvision downloads, checks and splits; it keeps its file list in private fields."""

    def build(root, split="train", transform=None):
        try:
            sources = {name: kind(root, split=name, **options) for name in (train, "test")}
            sizes = "".join(
                f"{path.name} {label} {path.stat().st_size}\n"
                for source in sources.values()
                for path, label in zip(map(Path, paths(source)), labels(source), strict=True)
            )
        except (RuntimeError, OSError) as error:
            raise DataError(f"{kind.__name__} in {root} cannot be read ({error}): see torchvision's page on it") from error
        source = sources[train if split == "train" else "test"]
        names = getattr(source, "classes", None) or [str(c) for c in sorted(set(labels(source)))]
        digest = hashlib.sha256(sizes.encode()).hexdigest()
        return ImageSet(map(Path, paths(source)), labels(source), names, transform, fingerprint=digest)

    return build


def _folders(root, split="train", transform=None):
    """A folder a class, below train/ and test/; or side by side, then every fifth image of a class is for testing."""
    root, apart = Path(root), (Path(root) / "train").is_dir()
    if split not in ("train", "test"):
        raise ConfigError(f"unknown split {split!r}: choose train or test")
    base = root / split if apart else root
    names = sorted(folder.name for folder in (root / "train" if apart else root).glob("[!.]*") if folder.is_dir())
    if apart and (more := {folder.name for folder in (root / "test").glob("[!.]*") if folder.is_dir()} - {*names}):
        raise DataError(f"{root / 'test'} has classes without training images: {', '.join(sorted(more)[:5])}")
    paths, labels = [], []
    for label, name in enumerate(names):
        files = sorted(file for file in (base / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        chosen = [file for place, file in enumerate(files) if apart or (place % 5 == 4) == (split == "test")]
        if not chosen:
            why = "" if apart else ": without train/ and test/ it takes five images a class"
            raise DataError(f"{base / name} has no image for split {split}{why}")
        paths, labels = paths + chosen, labels + [label] * len(chosen)
    if not paths:
        raise DataError(f"{root} is no folder with a folder of images for each class: name another one")
    both = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)  # a run is of both splits
    lines = "".join(f"{file.relative_to(root)} {file.stat().st_size}\n" for file in both)
    return ImageSet(paths, labels, names, transform, fingerprint=hashlib.sha256(lines.encode()).hexdigest())


_sets = torchvision.datasets
DATASETS = {
    "cub200": CUB200,
    "folders": _folders,
    "aircraft": _from_torchvision(_sets.FGVCAircraft, lambda s: s._image_files, lambda s: s._labels, "trainval"),
    "flowers": _from_torchvision(_sets.Flowers102, lambda s: s._image_files, lambda s: s._labels, "train"),
    "pets": _from_torchvision(_sets.OxfordIIITPet, lambda s: s._images, lambda s: s._labels, "trainval"),
    "cars": _from_torchvision(
        _sets.StanfordCars, lambda s: [p for p, _ in s._samples], lambda s: [t for _, t in s._samples], "train"
    ),
}


def build_dataset(name: str, root, split: str = "train", transform=None) -> ImageSet:
    """The set `name` (one of DATASETS) from the folder `root`. Raises ConfigError, listing the known, for another name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name](root, split, transform)


def class_title(name: str) -> str:
    """A class's name to read: '004.Purple_Finch' -> 'Purple Finch'."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def normalisation(experiment: Experiment):
    """(mean, deviation) of the pixel values the experiment's model expects, three numbers each."""
    return IMAGENET if experiment.model == "resnet18" else HALF


def build_transform(experiment: Experiment, train: bool) -> v2.Transform:
    """PIL image -> float (3, image_size, image_size): square resize, random crop and flip (or centre crop), normalised."""
    size = experiment.image_size
    crop = [v2.RandomCrop(size), v2.RandomHorizontalFlip()] if train else [v2.CenterCrop(size)]
    return v2.Compose([
        v2.Resize((experiment.resize_size, experiment.resize_size), antialias=True), *crop,
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*normalisation(experiment)),
    ])  # fmt: skip


class Views(Dataset):
    """What a model sees of an image set, in batches: the pixels of `build_transform`, from images decoded once.

    Indexed by a list: of image numbers for the test-time view, of (image number, seed) for a training view, whose crop
    and flip depend on that seed alone. Gives (B, 3, image_size, image_size) floats and (B,) labels.
    The decoded images are kept in data/cache/, or decoded anew each time if the experiment says so or the set is tiny.
    """

    def __init__(self, images: ImageSet, experiment: Experiment):
        self.images, self.experiment = images, experiment
        self.pixels = self._cache() if experiment.cache and len(images) >= TINY else None

    def __len__(self):
        return len(self.images)

    def __getitems__(self, items):
        size, resized = self.experiment.image_size, self.experiment.resize_size
        views = torch.empty(len(items), 3, size, size, dtype=torch.uint8)
        numbers = [item[0] if isinstance(item, tuple) else item for item in items]
        for view, number, item in zip(views, numbers, items, strict=True):
            pixels = torch.from_numpy(self._decode(number) if self.pixels is None else self.pixels[number].copy())
            if isinstance(item, tuple):
                top, left, flip = _draw(item[1], resized - size)
            else:
                (top, left), flip = [round((resized - size) / 2)] * 2, False
            crop = pixels[:, top : top + size, left : left + size]
            view.copy_(crop.flip(-1) if flip else crop)
        floats = v2.functional.to_dtype(views, torch.float32, scale=True)
        labels = torch.tensor([self.images.labels[number] for number in numbers])
        return v2.functional.normalize(floats, *normalisation(self.experiment), inplace=True), labels

    def _decode(self, index):
        size = self.experiment.resize_size
        return v2.functional.pil_to_tensor(
            v2.functional.resize(self.images.load(index), [size, size], antialias=True)
        ).numpy()

    def _cache(self):
        size, digest = self.experiment.resize_size, hashlib.sha256()
        for path in self.images.paths:
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
        name = hashlib.sha256("\n".join(map(str, [size, *self.images.paths])).encode()).hexdigest()[:12]
        shape = (len(self.images), 3, size, size)
        return cached(project_path(f"data/cache/{name}.npy"), digest.hexdigest(), shape, self._decode)


def _draw(seed, room):
    """(top, left, flip) of a training view, drawn as torchvision's RandomCrop and RandomHorizontalFlip draw them."""
    generator = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(room + 1, (), generator=generator)) if room else 0 for _ in range(2))
    return top, left, bool(torch.rand(1, generator=generator) < 0.5)


def to_view(points: np.ndarray, image_size: tuple[int, int], experiment: Experiment) -> np.ndarray:
    """Points (..., 2) x y in pixels of a photograph of (width, height) -> pixels of the model's test-time view."""
    margin = (experiment.resize_size - experiment.image_size) / 2
    return np.asarray(points, dtype=float) * experiment.resize_size / np.asarray(image_size, dtype=float) - margin


def part_points(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """Where the annotated parts lie in the model's view: (n, P, 2) x y in pixels, nan where a part is not visible."""
    points = np.stack(
        [to_view(parts[:, :2], size, experiment) for parts, size in zip(images.parts, images.sizes(), strict=True)]
    )
    inside = ((points >= 0) & (points < experiment.image_size)).all(-1)
    return np.where((inside & (images.parts[..., 2] > 0))[..., None], points, np.nan)


def counting_points(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """`part_points` of the parts that set an image's class apart from its siblings, the others nan; where the data set does
    not say which these are, all of them."""
    if images.parts is None:
        return np.full((len(images), 1, 2), np.nan)
    points = part_points(images, experiment)
    return points if images.diagnostic is None else np.where(images.diagnostic[images.labels][..., None], points, np.nan)


def box_views(images: ImageSet, experiment: Experiment) -> np.ndarray:
    """The annotated boxes in the model's view: (n, 4) x y width height in pixels."""
    corners = np.stack([images.boxes[:, :2], images.boxes[:, :2] + images.boxes[:, 2:]], axis=1)
    corners = np.stack([to_view(two, size, experiment) for two, size in zip(corners, images.sizes(), strict=True)])
    corners = corners.clip(0, experiment.image_size)
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)


def data_folder(experiment: Experiment) -> Path:
    """The experiment's data folder; draws the built-in birds if they are what it uses and are not there yet."""
    if experiment.data:
        return project_path(experiment.data)
    return synthbirds.generate(project_path(f"data/synthbirds-{experiment.profile}"), experiment.profile)


def open_splits(experiment: Experiment) -> tuple[ImageSet, ImageSet]:
    """(train, test) of an experiment, with its transforms. Raises DataError for data that cannot be used."""
    root = data_folder(experiment)
    return tuple(
        build_dataset(experiment.dataset, root, split, build_transform(experiment, train=split == "train"))
        for split in ("train", "test")
    )


def batches(dataset: ImageSet, experiment: Experiment) -> DataLoader:
    """Batches (images, labels) in the order of the set, as a model is tested on them."""
    return _loader(dataset, experiment, batch_size=4 * experiment.batch_size)


def training_batches(dataset: ImageSet, experiment: Experiment, draws: Sampler) -> DataLoader:
    """Batches (images, labels) of training views; draws: (image number, seed) of each."""
    return _loader(dataset, experiment, batch_size=experiment.batch_size, sampler=draws)


def _loader(dataset, experiment, **options):
    return DataLoader(
        Views(dataset, experiment), num_workers=experiment.workers, pin_memory=torch.cuda.is_available(),
        collate_fn=default_convert, **options,
    )  # fmt: skip  # default_convert: a batch is whole already
