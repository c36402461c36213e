import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fgvc_lib.config import Experiment
from fgvc_lib.datasets import cache as cache_module
from fgvc_lib.datasets import views as datasets
from fgvc_lib.datasets.cache import cached
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.views import Views, build_transform, eval_loader, train_loader
from fgvc_lib.errors import DataError, StorageError

SHAPE = (20, 3, 4, 4)


def image(index):
    return np.full(SHAPE[1:], index, dtype=np.uint8)


def counting(calls):
    def decode(index):
        calls.append(index)
        return image(index)

    return decode


def test_decoded_once_and_read_by_all(tmp_path):
    calls = []
    made = cached(tmp_path / "a.npy", "one", SHAPE, counting(calls))
    again = cached(tmp_path / "a.npy", "one", SHAPE, counting(calls))
    assert len(calls) == 20 and isinstance(again, np.memmap)
    assert (made == again).all() and (again == np.stack([image(i) for i in range(20)])).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npy"]


def spoil_a_pixel(path):
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        spoil_a_pixel,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),  # half written
        lambda path: path.write_bytes(b"junk"),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").unlink(),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    calls, path = [], tmp_path / "a.npy"
    cached(path, "one", SHAPE, image)
    damage(path)
    assert (cached(path, "one", SHAPE, counting(calls)) == np.stack([image(i) for i in range(20)])).all()
    assert len(calls) == 20


def test_another_stamp_or_shape_is_made_again(tmp_path):
    calls, path = [], tmp_path / "a.npy"
    cached(path, "one", SHAPE, image)
    cached(path, "two", SHAPE, counting(calls))
    cached(path, "two", (19, 3, 4, 4), counting(calls))
    assert len(calls) == 39


def test_two_at_once(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: cached(tmp_path / "a.npy", "one", SHAPE, image), range(2)))
    assert all((made == np.stack([image(i) for i in range(20)])).all() for made in both)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_no_room_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError, match=r"a\.npy \(no space left.*or set cache to False"):
        cached(tmp_path / "a.npy", "one", SHAPE, image)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*or set cache to False"):
        cached(tmp_path / "file" / "a.npy", "one", SHAPE, image)


def test_an_image_that_fails_leaves_nothing(tmp_path):
    def decode(index):
        raise DataError("cannot decode the image 7.jpg")

    with pytest.raises(DataError, match=r"7\.jpg"):
        cached(tmp_path / "a.npy", "one", SHAPE, decode)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """A project of the test's own, whose sets are never too tiny for a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "TINY", 1)
    return tmp_path / "data" / "cache"


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("model", ["vit_micro16", "resnet18"])
def test_the_views_are_the_transforms(cub, caching, cache, model):
    experiment = Experiment(model=model, image_size=32, resize_size=37, cache=cache, batch_size=2)
    for train in (False, True):
        images = CUB200(cub, "train", build_transform(experiment, train))
        seeds = list(range(100, 100 + len(images)))
        loader = train_loader(images, experiment, list(enumerate(seeds))) if train else eval_loader(images, experiment)
        views = torch.cat([batch for batch, _ in loader])
        for number, seed in enumerate(seeds):
            torch.manual_seed(seed)
            assert torch.equal(views[number], images[number][0])
    assert caching.exists() == cache
    assert torch.cat([labels for _, labels in loader]).tolist() == images.labels


def test_a_changed_image_is_decoded_anew(cub, caching):
    experiment, images = Experiment(image_size=32, resize_size=36), CUB200(cub)
    before, _ = Views(images, experiment).__getitems__([0])
    os.replace(images.paths[4], images.paths[0])
    images.paths[4] = images.paths[3]
    after, _ = Views(images, experiment).__getitems__([0])
    assert not torch.equal(before, after)


def test_tiny_sets_keep_no_cache(cub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Views(CUB200(cub), Experiment(image_size=32, resize_size=36))
    assert not (tmp_path / "data").exists()
