from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from fgvc_lib.datasets import cache as cache_module
from fgvc_lib.datasets.cache import cached
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
    made = cached(tmp_path / "a-one.npy", SHAPE, counting(calls))
    again = cached(tmp_path / "a-one.npy", SHAPE, counting(calls))
    assert len(calls) == 20 and isinstance(again, np.memmap)
    assert (made == again).all() and (again == np.stack([image(i) for i in range(20)])).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-one.npy"]


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
        lambda path: path.write_bytes(path.read_bytes()[:-4]),  # without its checksum
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes().replace(b"|u1", b"|i1")),
        lambda path: np.save(path, np.zeros(SHAPE, np.uint8)),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    calls, path = [], tmp_path / "a-one.npy"
    cached(path, SHAPE, image)
    damage(path)
    assert (cached(path, SHAPE, counting(calls)) == np.stack([image(i) for i in range(20)])).all()
    assert len(calls) == 20


def test_another_state_or_shape_is_made_again(tmp_path):
    calls = []
    cached(tmp_path / "b-one.npy", SHAPE, image)
    cached(tmp_path / "a-one.npy", SHAPE, image)
    cached(tmp_path / "a-two.npy", SHAPE, counting(calls))
    cached(tmp_path / "a-two.npy", (19, 3, 4, 4), counting(calls))
    assert len(calls) == 39
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-two.npy", "b-one.npy"]  # no other set's


def test_two_at_once(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: cached(tmp_path / "a-one.npy", SHAPE, image), range(2)))
    assert all((made == np.stack([image(i) for i in range(20)])).all() for made in both)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-one.npy"]


def test_no_room_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError, match=r"a-one\.npy \(no space left.*or set cache to False"):
        cached(tmp_path / "a-one.npy", SHAPE, image)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*or set cache to False"):
        cached(tmp_path / "file" / "a-one.npy", SHAPE, image)


def test_an_image_that_fails_leaves_nothing(tmp_path):
    def decode(index):
        raise DataError("cannot decode the image 7.jpg")

    with pytest.raises(DataError, match=r"7\.jpg"):
        cached(tmp_path / "a-one.npy", SHAPE, decode)
    assert not list(tmp_path.iterdir())
