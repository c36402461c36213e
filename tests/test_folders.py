import os
import shutil

import numpy as np
import pytest
from conftest import project_at, write_cub
from PIL import Image

from fgvc_lib.config import Experiment
from fgvc_lib.datasets import photographs
from fgvc_lib.datasets.build import build_dataset, found, open_splits
from fgvc_lib.datasets.image_set import class_title
from fgvc_lib.datasets.listing import list_folder
from fgvc_lib.errors import DataError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def fill(root, *folders, images=6):
    """Folders of small images, no two alike."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(images):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


def read(root):
    """(classes, number of training images, of test images), and the line that says so."""
    train, test = (build_dataset("folders", root, split) for split in ("train", "test"))
    return (train.classes, len(train), len(test)), found(train, test)


@pytest.mark.parametrize(
    ("folders", "numbers"),
    [
        (("finch", "wren"), (10, 2)),
        (("zip/dataset/finch", "zip/dataset/wren"), (10, 2)),
        (("finch/images", "wren/images"), (10, 2)),
        (("TRAIN/finch", "TRAIN/wren", "Test/finch", "Test/wren"), (12, 12)),
        (("zip/train/finch", "zip/train/wren", "zip/val/finch", "zip/val/wren"), (12, 12)),
        (("training/finch", "training/wren", "Validation/finch", "Validation/wren"), (12, 12)),
        (("train/finch", "train/wren", "val/finch", "val/wren", "test/finch", "test/wren", "test/wren/more"), (12, 18)),
    ],
)
def test_layouts_of_folders(tmp_path, folders, numbers):
    assert read(fill(tmp_path, *folders))[0] == (["finch", "wren"], *numbers)


def test_a_class_called_train_is_no_folder_of_a_split(tmp_path):
    assert read(fill(tmp_path, "bus", "train"))[0] == (["bus", "train"], 10, 2)


@pytest.mark.parametrize(
    ("folders", "below", "words"),
    [
        (("Aves/finch", "Aves/wren", "Insecta/bee"), "", "Aves has no images of its own, but folders .* finch/ and wren/"),
        (("finch/train", "finch/test", "wren/train", "wren/test"), "", "finch has no images of its own"),
        (("finch", "wren"), "finch", "name the folder above, .*test_folders"),
        (("finch",), "", "has one class, finch: classification takes two"),
        (("train/finch", "test/finch"), "", "has one class, finch"),
        (("train/finch", "train/wren"), "", "has no test/ or val/ with folders of images"),
        (("test/finch", "test/wren"), "", "has no train/ with folders of images"),
        (("train/finch", "train/wren", "Train/finch", "test/finch", "test/wren"), "", "has Train/ and train/"),
        (("train", "test"), "", "/test holds images itself: put a folder for each class into it"),
        (("finch", "wren"), "finch/0.png", "it is a file"),
        (("finch", "wren"), "gone", "there is no such folder"),
    ],
)
def test_folders_a_level_too_high_or_low(tmp_path, folders, below, words):
    root = fill(tmp_path / "test_folders", *folders)
    with pytest.raises(DataError, match=words):
        read(root / below)


def test_a_picture_beside_the_folders_of_an_archive(tmp_path):
    fill(tmp_path, "set/finch", "set/wren", "train")
    shutil.move(tmp_path / "train" / "0.png", tmp_path / "set" / "cover.png")
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match="one class, set: .*; if the folders in it are the classes, name .*/set$"):
        read(tmp_path)
    assert read(tmp_path / "set")[1].endswith("images elsewhere in it left out: 1")


def test_one_folder_of_a_split_says_that_the_other_is_not_used(tmp_path):
    fill(tmp_path, "train/finch", "train/wren", "test/finch", "test/wren")
    numbers, line = read(tmp_path / "train")
    assert numbers[1:] == (10, 2) and f"test/ beside it not used: name {tmp_path} for that" in line


def test_hidden_and_system_folders_are_never_read(tmp_path):
    fill(tmp_path, "finch", "wren")
    hidden = ".git/finch", "__MACOSX/finch", "@eaDir", "finch/@eaDir", "finch/.ipynb_checkpoints", "wren/a/Thumbnails"
    fill(tmp_path, *hidden)
    for name in ("Thumbs.db", "finch/._0.png", "wren/desktop.ini", ".DS_Store"):
        (tmp_path / name).touch()
    numbers, line = read(tmp_path)
    assert numbers == (["finch", "wren"], 10, 2) and line.endswith("; hidden or system entries left out: 10")


def test_a_folder_says_what_is_not_read(tmp_path):
    fill(tmp_path, "finch", "wren")
    for name, content in (("wren/a.HEIC", HEIC), ("wren/b.HEIC", HEIC), ("notes.txt", b"x"), ("wren/c.CR2", b"II*\0")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "wren" / "0.png").rename(tmp_path / "wren" / "IMG_0001")
    numbers, line = read(tmp_path)
    if "HEIF" not in photographs.FORMATS:
        assert numbers[1:] == (10, 2)
        assert "; not read: 2 .heic, 1 .txt, 1 .cr2 (HEIC files need the extra heif: pip install" in line


@pytest.mark.parametrize(("name", "words"), [("owl/a.cr2", "none that can be read: 1 .cr2"), ("owl/.x", "none; remove")])
def test_a_folder_of_a_class_without_photographs(tmp_path, name, words):
    fill(tmp_path, "finch", "wren")
    (tmp_path / "owl").mkdir()
    (tmp_path / name).write_bytes(b"II*\0")
    with pytest.raises(DataError, match=f"/owl should hold a class's images and holds {words}"):
        read(tmp_path)


def test_folders_of_any_name(tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    names = ["a\nb", "quo'te\"", "$fin$ch", "x" * 200, "<b>", "~", "*", " ", "007.", os.fsdecode(b"caf\xe9")]
    root = fill(tmp_path / "set", *names)
    (root / "~" / "0.png").rename(root / "~" / f"{'y' * 251}.png")
    (root / names[-1] / "0.png").rename(root / names[-1] / os.fsdecode(b"\xff.png"))
    (classes, *numbers), line = read(root)
    assert numbers == [50, 10] and line.encode() and all(name.encode() and class_title(name).strip() for name in classes)
    train, test = open_splits(Experiment(dataset="folders", data=str(root)))
    assert len(train.fingerprint) == 64 and not train.flaws() and test.load(0).size == (9, 9)


def test_folders_named_with_composed_and_decomposed_letters(tmp_path):
    apart = fill(tmp_path / "apart", "train/caf\u00e9", "train/wren", "test/cafe\u0301", "test/wren")
    assert read(apart)[0] == (["caf\u00e9", "wren"], 12, 12)
    assert read(fill(tmp_path / "one", "caf\u00e9", "cafe\u0301", "wren"))[0] == (["caf\u00e9", "wren"], 15, 3)


@pytest.mark.parametrize(
    ("folders", "link", "target"),
    [
        (("finch", "wren"), "owl", "finch"),
        (("finch", "wren"), "finch/more", "wren"),
        (("train/finch", "train/wren"), "test", "train"),
        (("finch", "wren"), "wren/9.png", "finch/1.png"),
        (("train/finch", "train/wren", "test/finch", "test/wren"), "test/wren/9.png", "train/wren/1.png"),
    ],
)
def test_links_between_folders_of_classes_or_splits_are_refused(tmp_path, folders, link, target):
    fill(tmp_path, *folders)
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(DataError, match="is the same as .*, by a link: its images would count in two places"):
        read(tmp_path)


def test_links_that_do_no_harm_to_folders(tmp_path):
    root = fill(tmp_path / "set", "train/finch", "train/wren", "test/finch", "test/wren")
    (root / "val").symlink_to("test")
    (root / "train" / "finch" / "9.png").symlink_to("1.png")
    (root / "train" / "wren" / "up").symlink_to("../..")
    assert read(root)[0] == (["finch", "wren"], 12, 12)
    (root / "train" / "owl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="/owl is a link to what is not there"):
        read(root)


def test_folders_that_link_to_each_other_end(tmp_path):
    names = [f"c{number}" for number in range(9)]
    fill(tmp_path, *names, images=1)
    for one in names:
        for other in names:
            (tmp_path / one / f"to_{other}").symlink_to(tmp_path / other)
    assert len(list_folder(tmp_path).photographs) == 9


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the folder .*/gone \(No such file"):
        list_folder(tmp_path / "gone")


def test_skip_broken_leaves_photographs_out_everywhere(tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    root = fill(tmp_path / "set", "finch", "wren")
    (root / "finch" / "1.png").write_bytes(b"")
    experiment = Experiment(dataset="folders", data=str(root))
    with pytest.raises(DataError, match=r"1\.png is not an image .*it is empty.*or leave it out with skip_broken"):
        open_splits(experiment)[0].check()
    train, test = open_splits(experiment.replace(skip_broken=True))
    assert (len(train), len(test), train.skipped) == (9, 2, 1) and found(train, test).endswith("left out: 1")
    seen = []
    monkeypatch.setattr("fgvc_lib.datasets.image_set._flaw", lambda path: seen.append(path) or "")
    assert open_splits(experiment.replace(skip_broken=True))[0].skipped == 1 and not seen  # what was seen is remembered


def test_an_official_split_that_is_not_used_is_said(tmp_path):
    images = build_dataset("folders", write_cub(tmp_path / "cub", train=8, test=2))
    assert any(
        "official split in train_test_split.txt is not used: leave out the option --dataset" in one for one in images.remarks
    )
