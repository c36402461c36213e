import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import project_at
from PIL import Image
from test_photographs import noise
from torchvision.transforms import v2

from fgvc_lib.config import Experiment
from fgvc_lib.datasets import views as module
from fgvc_lib.datasets.build import open_splits
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.views import (
    Views,
    crop_and_normalise,
    eval_loader,
    normalisation,
    resized,
    train_loader,
    view,
    workers_watched,
)
from fgvc_lib.errors import DataError


def torchvision_view(photograph, experiment, seed=None):
    """The same view, by torchvision's own transforms, one photograph at a time."""
    size, square = experiment.image_size, [experiment.resize_size] * 2
    random = [v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    steps = [v2.Resize(square, antialias=True), *([v2.CenterCrop(size)] if seed is None else random)]
    numbers = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*normalisation(experiment))]
    if seed is not None:
        torch.manual_seed(seed)
    return v2.Compose(steps + numbers)(photograph)


SIZES = [(32, 37), (32, 32), (24, 41)]


@pytest.mark.parametrize(("size", "resize"), SIZES)
@pytest.mark.parametrize("model", ["vit_micro16", "resnet18"])
def test_views_are_those_of_torchvision(size, resize, model):
    experiment = Experiment(model=model, image_size=size, resize_size=resize)
    photographs = [Image.fromarray(noise(shape)) for shape in ((97, 331, 3), (20, 17, 3), (resize, resize, 3))]
    squares = [resized(photograph, experiment) for photograph in photographs]
    assert squares[0].shape == (3, resize, resize) and squares[0].dtype == np.uint8
    for seed in (None, *range(8)):
        batch = crop_and_normalise(squares, [seed] * 3, experiment)
        assert batch.shape == (3, 3, size, size)
        for found, photograph in zip(batch, photographs, strict=True):
            assert torch.equal(found, torchvision_view(photograph, experiment, seed))


def test_one_photograph_is_a_batch_of_one():
    experiment, photograph = Experiment(image_size=32, resize_size=37), Image.fromarray(noise((60, 90, 3)))
    assert torch.equal(view(photograph, experiment), torchvision_view(photograph, experiment))


def test_normalised_to_the_models_mean():
    photograph = Image.new("RGB", (60, 90), (124, 116, 104))  # ImageNet's mean colour
    assert view(photograph, Experiment(model="resnet18")).abs().max() < 0.02


def test_both_splits_give_test_views(cub):
    experiment = Experiment(data=str(cub), image_size=32, resize_size=37)
    for images in open_splits(experiment):
        found, label = images[1]
        assert torch.equal(found, torchvision_view(images.load(1), experiment)) and label == images.labels[1]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("model", ["vit_micro16", "resnet18"])
def test_loaders_give_the_views(cub, caching, cache, model):
    experiment = Experiment(model=model, image_size=32, resize_size=37, cache=cache, batch_size=2)
    images, seeds = CUB200(cub, "train"), list(range(100, 109))
    for draws in (None, list(enumerate(seeds))):
        loader = train_loader(images, experiment, draws) if draws else eval_loader(images, experiment)
        views = torch.cat([batch for batch, _ in loader])
        for number, seed in enumerate(seeds):
            assert torch.equal(views[number], torchvision_view(images.load(number), experiment, seed if draws else None))
    assert caching.exists() == cache
    assert torch.cat([labels for _, labels in loader]).tolist() == images.labels


def test_a_changed_image_is_decoded_anew(cub, caching):
    experiment, images = Experiment(image_size=32, resize_size=36), CUB200(cub)
    before, _ = Views(images, experiment).__getitems__([0])
    images.paths[4].replace(images.paths[0])
    images.paths[4] = images.paths[3]
    after, _ = Views(images, experiment).__getitems__([0])
    assert not torch.equal(before, after)
    assert len(list(caching.iterdir())) == 1  # what is out of date is removed


def test_sets_and_sizes_keep_a_cache_each(cub, caching):
    for split in ("train", "test"):
        for size in (36, 40, 36):
            Views(CUB200(cub, split), Experiment(image_size=32, resize_size=size))
    assert len(list(caching.iterdir())) == 4


def test_crops_keep_a_cache_of_their_own(official, caching):
    experiment = Experiment(data=str(official), image_size=32, resize_size=36)
    for one in (experiment, experiment.replace(crop_to_box=True)):
        images, _ = open_splits(one)
        seen, _ = Views(images, one).__getitems__([0, 1, 2])
        assert torch.equal(seen, torch.stack([torchvision_view(images.load(number), one) for number in range(3)]))
    assert len(list(caching.glob("*.npy"))) == 2
    boxes = official / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 139.5", "1 90.5"))
    images, _ = open_splits(one)
    changed, _ = Views(images, one).__getitems__([0])
    assert not torch.equal(changed, seen[:1]) and len(list(caching.glob("*.npy"))) == 2  # what is out of date is removed


def test_annotations_turn_a_photograph_in_the_cache_too(cub, caching):
    images, experiment = CUB200(cub), Experiment(image_size=32, resize_size=36)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise((40, 40, 3))).save(images.paths[0], exif=turned)
    before, _ = Views(images, experiment).__getitems__([0])
    (cub / "bounding_boxes.txt").write_text("".join(f"{i} 0 0 9 9\n" for i in range(1, 16)))
    after, _ = Views(CUB200(cub), experiment).__getitems__([0])
    assert not torch.equal(before, after)


def test_tiny_sets_keep_no_cache(cub, tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    Views(CUB200(cub), Experiment(image_size=32, resize_size=36))
    assert not (tmp_path / "data").exists()


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """A project of the test's own, whose sets are never too tiny for a cache."""
    project_at(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "TINY", 1)
    return tmp_path / "data" / "cache"


class Failing(Views):
    """Views whose second worker fails in some way."""

    def __getitems__(self, items):
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id == 1:
            self.fail()
        return super().__getitems__(items)


def two_workers(cub, monkeypatch, fail):
    monkeypatch.setattr(module, "Views", type("Failing", (Failing,), {"fail": fail}))
    experiment = Experiment(image_size=32, resize_size=36, batch_size=1, workers=2)
    with workers_watched():
        return [labels for _, labels in eval_loader(CUB200(cub), experiment)]


def test_a_loader_whose_worker_dies_ends_with_one_line(cub, monkeypatch):
    words = "^a process that loads images ended or did not answer .*: set workers to 0, or .*--shm-size=1g.$"
    with pytest.raises(DataError, match=words):
        two_workers(cub, monkeypatch, lambda self: os.kill(os.getpid(), signal.SIGKILL))


def test_a_loader_does_not_wait_for_ever(cub, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1)
    with pytest.raises(DataError, match="did not answer .DataLoader timed out after 1 seconds.: set workers to 0"):
        two_workers(cub, monkeypatch, lambda self: time.sleep(3))


def test_a_loader_passes_on_what_a_worker_says(cub, monkeypatch):
    def fail(self):
        raise DataError("a.jpg is\nno image")

    with pytest.raises(DataError, match="^a.jpg is\nno image$"):
        two_workers(cub, monkeypatch, fail)


def test_other_errors_pass_the_watch_over_loaders():
    for error in (RuntimeError("of another kind"), FileNotFoundError(2, "No such file"), DataError("as it is")):
        with pytest.raises(type(error)) as caught, workers_watched():
            raise error
        assert caught.value is error


def test_loaders_need_no_shared_memory(cub):
    """Eight workers with a /dev/shm of 1 MB, where that can be mounted: in a namespace of the test's own."""
    script = (
        "from fgvc_lib.config import Experiment\nfrom fgvc_lib.datasets import CUB200, eval_loader\n"
        f"images = CUB200({str(cub)!r})\n"
        "loader = eval_loader(images, Experiment(image_size=224, resize_size=224, batch_size=1, workers=8))\n"
        "print(sum(len(batch) for batch, _ in loader), 'images')"
    )
    small = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", small, sys.executable, script]
    if subprocess.run([*command[:4], small.replace("exec", "true"), "true"], capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.stdout.endswith("9 images\n"), ran.stderr
