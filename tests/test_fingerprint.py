import json
import shutil

import pytest
from conftest import project_at
from PIL import Image
from test_datasets import write_classes
from test_photographs import noise

from fgvc_lib.datasets import fingerprint as module
from fgvc_lib.datasets.build import build_dataset
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.fingerprint import Entry, content_fingerprint
from fgvc_lib.errors import DataError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of the test's own, with a data/cache/ of its own."""
    (tmp_path / "project").mkdir()
    project_at(monkeypatch, tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def reads(monkeypatch):
    """The files whose content is read."""
    found, real = [], module._digest
    monkeypatch.setattr(module, "_digest", lambda path: found.append(path) or real(path))
    return found


def of_folder(root):
    train, test = (build_dataset("folders", root, split).fingerprint for split in ("train", "test"))
    assert train == test
    return train


def test_another_image_is_another_set(cub):
    before = CUB200(cub).fingerprint
    Image.new("RGB", (40, 40)).save(CUB200(cub, "test").paths[0])
    assert CUB200(cub).fingerprint != before


def test_links_to_other_pictures_are_another_set(tmp_path):
    prints = []
    for number, suffix in enumerate(("png", "bmp", "png")):
        store = write_classes(tmp_path / f"store{number}", {"finch": 10, "wren": 10}, suffix)
        links = tmp_path / f"links{number}"
        links.mkdir()
        for name in ("finch", "wren"):
            (links / name).symlink_to(store / name)
        prints.append(of_folder(links))
        assert prints[-1] == of_folder(store)
    assert prints[0] == prints[2] != prints[1]


def test_swapped_files_of_one_size_are_another_set(tmp_path):
    root = write_classes(tmp_path / "set", {"finch": 10, "wren": 10}, "bmp")
    before = of_folder(root)
    (root / "finch" / "3.bmp").rename(tmp_path / "aside")
    (root / "wren" / "3.bmp").rename(root / "finch" / "3.bmp")
    (tmp_path / "aside").rename(root / "wren" / "3.bmp")
    assert of_folder(root) != before


def test_a_copy_elsewhere_is_the_same_set(cub, tmp_path):
    assert CUB200(shutil.copytree(cub, tmp_path / "elsewhere" / "copy")).fingerprint == CUB200(cub).fingerprint


def test_class_split_id_and_order_count(cub):
    images = CUB200(cub)
    entries = [
        Entry(i, "train", label, path) for i, label, path in zip(images.ids, images.labels, images.paths, strict=True)
    ]
    base, first = content_fingerprint(cub, entries, images.classes), entries[0]
    for change in ({"id": 99}, {"split": "test"}, {"label": 1}, {"path": entries[1].path}):
        assert content_fingerprint(cub, [first._replace(**change), *entries[1:]], images.classes) != base
    assert content_fingerprint(cub, entries, images.classes[::-1]) != base


def test_what_was_read_is_not_read_again(cub, reads):
    first = CUB200(cub).fingerprint
    assert len(reads) == 15
    assert CUB200(cub, "test").fingerprint == first and len(reads) == 15
    changed = CUB200(cub).paths[0]
    Image.fromarray(noise((40, 40, 3))).save(changed)
    assert CUB200(cub).fingerprint != first and reads[15:] == [changed]


def test_nothing_is_read_before_it_is_asked_for(cub, reads):
    CUB200(cub)
    assert not reads


@pytest.mark.parametrize("junk", [b"", b"{", b"\0" * 90, b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_memory_is_made_anew(cub, project, reads, junk):
    first = CUB200(cub).fingerprint
    (memory,) = (project / "data" / "cache").iterdir()
    memory.write_bytes(junk)
    assert CUB200(cub).fingerprint == first and len(reads) == 30
    assert len(json.loads(memory.read_text())) == 15


def test_without_a_place_for_the_memory(cub, project, reads):
    first = CUB200(cub).fingerprint
    shutil.rmtree(project / "data")
    (project / "data").touch()
    assert CUB200(cub).fingerprint == first and CUB200(cub).fingerprint == first and len(reads) == 45


def test_an_image_that_went_away_is_named(cub):
    images = CUB200(cub)
    images.paths[2].unlink()
    with pytest.raises(DataError, match=rf"cannot read the image .*{images.paths[2].name} \(No such file"):
        _ = images.fingerprint
