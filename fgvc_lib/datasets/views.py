"""What a model sees of a photograph: resized once, then cropped, flipped and normalised in batches."""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from ..config import Experiment, project_path
from ..errors import DataError, FGVCError
from ..weights import source_of
from .cache import cached
from .fingerprint import checksum, file_states
from .image_set import ImageSet

TINY = 256  # sets of fewer images are not worth a cache
PATIENCE = 120  # seconds that a batch from another process may take
SHORT_OF = (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN, errno.EMFILE)  # what a machine lacks to start processes


def normalisation(experiment: Experiment) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of the pixel values that the experiment's model expects, three numbers each."""
    source = source_of(experiment)
    return source.mean, source.std


def resized(photograph: Image.Image, experiment: Experiment) -> np.ndarray:
    """An RGB photograph as a square: (3, R, R) uint8 with R = resize_size."""
    size = experiment.resize_size
    return np.asarray(v2.functional.resize(photograph, [size, size], antialias=True)).transpose(2, 0, 1)


def crop_and_normalise(squares: Iterable[np.ndarray], seeds: Sequence[int | None], experiment: Experiment) -> torch.Tensor:
    """Resized photographs, B of (3, R, R) uint8 -> views (B, 3, S, S) float, with S = image_size.

    seeds: for each, what its random crop and flip depend on, or None for the test-time view, the crop from the centre.
    """
    size, generator = experiment.image_size, torch.Generator()
    crops = np.empty((len(seeds), 3, size, size), np.uint8)
    for crop, square, seed in zip(crops, squares, seeds, strict=True):
        top, left, flip = _draw(generator, seed, experiment.resize_size - size)
        part = square[:, top : top + size, left : left + size]
        crop[:] = part[..., ::-1] if flip else part
    floats = v2.functional.to_dtype(torch.from_numpy(crops), torch.float32, scale=True)
    return v2.functional.normalize(floats, *normalisation(experiment), inplace=True)


def _draw(generator, seed, room):
    """(top, left, flip) of a view, drawn as torchvision's RandomCrop and RandomHorizontalFlip draw them."""
    if seed is None:
        return round(room / 2), round(room / 2), False
    generator.manual_seed(seed)
    top, left = torch.randint(room + 1, (2,), generator=generator).tolist() if room else (0, 0)
    return top, left, torch.rand(1, generator=generator).item() < 0.5


def view(photograph: Image.Image, experiment: Experiment) -> torch.Tensor:
    """An RGB photograph -> its test-time view (3, S, S) float."""
    return crop_and_normalise([resized(photograph, experiment)], [None], experiment)[0]


class Views(Dataset):
    """What a model sees of an image set, in batches, from images decoded once.

    Indexed by a list: of image numbers for the test-time view, of (image number, seed) for a training view.
    Gives (B, 3, S, S) floats and (B,) labels.
    The resized images are kept in data/cache/, or decoded anew each time if the experiment says so or the set is tiny.
    """

    def __init__(self, images: ImageSet, experiment: Experiment):
        self.images, self.experiment, self.squares = images, experiment, None
        if experiment.cache and len(images) >= TINY:
            size = experiment.resize_size
            crops = None if images.crops is None else images.crops.tolist()
            state = checksum([[path.name for path in images.paths], file_states(images.paths), images.upright, crops])[:12]
            path = project_path(f"data/cache/{checksum([images.origin, size])[:12]}-{state}.npy")
            self.squares = np.asarray(
                cached(path, (len(images), 3, size, size), lambda i: resized(images.load(i), experiment))
            )

    def __len__(self):
        return len(self.images)

    def __getitems__(self, items: list[int] | list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
        squares = (self._square(number) for number, _ in pairs)
        labels = torch.tensor([self.images.labels[number] for number, _ in pairs])
        return crop_and_normalise(squares, [seed for _, seed in pairs], self.experiment), labels

    def _square(self, index):
        if self.squares is None:
            return resized(self.images.load(index), self.experiment)
        return self.squares[index]


def eval_loader(images: ImageSet, experiment: Experiment) -> DataLoader:
    """Batches (images, labels) in the order of the set, as a model is tested on them."""
    return _loader(images, experiment, 4 * experiment.batch_size // experiment.accumulate)


def train_loader(images: ImageSet, experiment: Experiment, draws: Sampler) -> DataLoader:
    """Batches (images, labels) of training views, `accumulate` to a step; draws: (image number, seed) of each."""
    return _loader(images, experiment, experiment.batch_size // experiment.accumulate, draws)


def _loader(images, experiment, batch_size, sampler=None):
    options = {"num_workers": experiment.workers, "pin_memory": torch.cuda.is_available()}
    options["timeout"] = PATIENCE if experiment.workers else 0
    options["collate_fn"] = _Batch  # a batch is whole already
    return DataLoader(Views(images, experiment), batch_size, sampler=sampler, **options)


class _Batch(tuple):
    """(images, labels) that a worker sends through its pipe. Tensors would go through shared memory, of which a container
    has 64 MB: eight workers fill it, and all would wait for ever."""

    def __reduce__(self):
        return _unpacked, tuple(tensor.numpy() for tensor in self)


def _unpacked(*arrays):
    return tuple(map(torch.from_numpy, arrays))


@contextmanager
def workers_watched() -> Iterator[None]:
    """One DataError for a process that loads images and ends or falls silent, and one line of an FGVCError raised there."""
    try:
        yield
    except FGVCError as error:
        if "DataLoader worker process" not in str(error):
            raise
        raise type(error)(str(error).rpartition(f".{type(error).__name__}: ")[2].strip()) from None
    except (RuntimeError, OSError) as error:
        if "DataLoader" not in str(error) and getattr(error, "errno", None) not in SHORT_OF:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(". ")
        raise DataError(
            f"a process that loads images ended or did not answer ({reason}): set workers to 0, or give the machine more "
            "memory (a container more shared memory, too: --shm-size=1g)"
        ) from error
