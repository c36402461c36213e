"""What a model sees of an image set."""

import hashlib

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert
from torchvision.transforms import v2

from ..config import Experiment, project_path
from .cache import cached
from .image_set import ImageSet

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation torchvision's CNNs were trained with
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # and Google's ViTs
TINY = 256  # sets of fewer images are not worth a cache


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


def eval_loader(dataset: ImageSet, experiment: Experiment) -> DataLoader:
    """Batches (images, labels) in the order of the set, as a model is tested on them."""
    return _loader(dataset, experiment, batch_size=4 * experiment.batch_size)


def train_loader(dataset: ImageSet, experiment: Experiment, draws: Sampler) -> DataLoader:
    """Batches (images, labels) of training views; draws: (image number, seed) of each."""
    return _loader(dataset, experiment, batch_size=experiment.batch_size, sampler=draws)


def _loader(dataset, experiment, **options):
    return DataLoader(
        Views(dataset, experiment), num_workers=experiment.workers, pin_memory=torch.cuda.is_available(),
        collate_fn=default_convert, **options,
    )  # fmt: skip  # default_convert: a batch is whole already
