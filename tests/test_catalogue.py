"""Data sets by name: each official layout in a small drawn copy, the published numbers, and what is wrong with a folder."""

import json
import shutil

import numpy as np
import pytest
from conftest import project_at, write_cub
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as torchvision_datasets

from fgvc_lib.datasets import DATASETS, build_dataset, download
from fgvc_lib.datasets.catalogue import CATALOGUE, list_datasets
from fgvc_lib.datasets.check import check_dataset
from fgvc_lib.datasets.download import download_dataset
from fgvc_lib.errors import ConfigError, DataError

TRAIN, TEST = ("a1", "a2", "b1"), ("a3", "b2")  # images of the classes a and b


def draw(*paths):
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (20 * number, 90, 0)).save(path, "JPEG")


def write_dogs(root, lists="lists"):
    names = {"a": "n02085620-Chihuahua", "b": "n02085782-Japanese_spaniel"}
    (root / lists).mkdir(parents=True)
    for part, images in (("train", TRAIN), ("test", TEST)):
        files = [f"{names[one[0]]}/{names[one[0]][:9]}_{one}.jpg" for one in images]
        draw(*(root / "Images" / file for file in files))
        cells = np.array(files, object)[:, None]
        labels = np.array([[1 + "ab".index(one[0])] for one in images])
        savemat(root / lists / f"{part}_list.mat", {"file_list": cells, "annotation_list": cells, "labels": labels})
    return root


def write_nabirds(root):
    """Classes 2 and 4 of a tree, whose other nodes are groups."""
    draw(*(root / "images" / f"000{'24'[one[0] == 'b']}" / f"{one}-4c5e.jpg" for one in TRAIN + TEST))
    rows = {
        "images.txt": [f"{one}-4c5e 000{'24'[one[0] == 'b']}/{one}-4c5e.jpg" for one in TRAIN + TEST],
        "image_class_labels.txt": [f"{one}-4c5e {'24'[one[0] == 'b']}" for one in TRAIN + TEST],
        "train_test_split.txt": [f"{one}-4c5e {int(one in TRAIN)}" for one in TRAIN + TEST],
        "bounding_boxes.txt": [f"{one}-4c5e 1 2 8 6" for one in TRAIN + TEST],
        "classes.txt": ["0 Birds", "1 Ducks, Geese, and Swans", "2 Mute Swan", "3 Owls", "4 Barn Owl (Adult)"],
        "hierarchy.txt": ["1 0", "2 1", "3 0", "4 3"],
    }
    for name, lines in rows.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def write_inat(root, year):
    folders, names = (
        {"2017": ("train_val_images",) * 2, "2021": ("train", "val")}[year],
        ("Acris crepitans", "Turdus merula"),
    )
    categories = [{"id": 7 + place, "name": name, "supercategory": "Aves"} for place, name in enumerate(names)]
    suffix = year if year == "2017" else ""
    for part, folder, images in zip(("train", "val"), folders, (TRAIN, TEST), strict=True):
        listed = [{"id": place, "file_name": f"{folder}/Aves/{one[0]}/{one}.jpg"} for place, one in enumerate(images)]
        marks = [{"id": n, "image_id": n, "category_id": 7 + "ab".index(one[0])} for n, one in enumerate(images)]
        draw(*(root / one["file_name"] for one in listed))
        table = {"images": listed, "annotations": marks, "categories": categories}
        (root / f"{part}{suffix}.json").write_text(json.dumps(table))
    return root


def write_cars(root):
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    places = {"train": base / "devkit" / "cars_train_annos.mat", "test": base / "cars_test_annos_withlabels.mat"}
    for part, images in (("train", TRAIN), ("test", TEST)):
        draw(*(base / f"cars_{part}" / f"{one}.jpg" for one in images))
        kinds = [("class", object), ("fname", object)]
        savemat(places[part], {"annotations": np.array([(1 + "ab".index(one[0]), f"{one}.jpg") for one in images], kinds)})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Acura RL"], object)})
    return root


def write_aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    draw(*(data / "images" / f"{one}.jpg" for one in TRAIN + TEST))
    (data / "variants.txt").write_text("707-320\nA380\n")
    for part, images in (("trainval", TRAIN), ("test", TEST)):
        lines = [f"{one} {('707-320', 'A380')['ab'.index(one[0])]}\n" for one in images]
        (data / f"images_variant_{part}.txt").write_text("".join(lines))
    return root


def write_flowers(root):
    base = root / "flowers-102"
    draw(*(base / "jpg" / f"image_{number:05}.jpg" for number in range(1, 6)))
    savemat(base / "imagelabels.mat", {"labels": np.array([[1 + "ab".index(one[0]) for one in TRAIN + TEST]])})
    savemat(base / "setid.mat", {"trnid": [[1, 2, 3]], "valid": [[1, 2]], "tstid": [[4, 5]]})
    return root


def write_pets(root):
    base, names = root / "oxford-iiit-pet", {"a": "Abyssinian", "b": "yorkshire_terrier"}
    (base / "annotations").mkdir(parents=True)
    draw(*(base / "images" / f"{names[one[0]]}_{one[1]}.jpg" for one in TRAIN + TEST))
    for part, images in (("trainval", TRAIN), ("test", TEST)):
        lines = [f"{names[one[0]]}_{one[1]} {1 + 'ab'.index(one[0])} 1 1\n" for one in images]
        (base / "annotations" / f"{part}.txt").write_text("".join(lines))
    return root


OFFICIAL = {
    "dogs": (write_dogs, ["Chihuahua", "Japanese_spaniel"]),
    "nabirds": (write_nabirds, ["Mute Swan", "Barn Owl (Adult)"]),
    "inat2017": (lambda root: write_inat(root, "2017"), ["Acris crepitans", "Turdus merula"]),
    "inat2021": (lambda root: write_inat(root, "2021"), ["Acris crepitans", "Turdus merula"]),
    "cars": (write_cars, ["AM General Hummer", "Acura RL"]),
    "aircraft": (write_aircraft, ["707-320", "A380"]),
    "flowers": (write_flowers, None),
    "pets": (write_pets, ["Abyssinian", "Yorkshire Terrier"]),
}


@pytest.fixture(autouse=True)
def own_project(tmp_path, monkeypatch):
    project_at(monkeypatch, tmp_path)
    monkeypatch.setattr(torchvision_datasets.Flowers102, "_check_integrity", lambda self: self._images_folder.is_dir())


@pytest.mark.parametrize("name", OFFICIAL)
def test_each_official_layout_is_read(tmp_path, name):
    write, classes = OFFICIAL[name]
    root = write(tmp_path / "set")
    train, test = (build_dataset(name, root, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2) and train.labels == [0, 0, 1] and test.labels == [0, 1]
    assert (train.classes == test.classes == classes) if classes else len(train.classes) == 102
    assert train[2][0].size == (12, 9) and len({*train.paths, *test.paths}) == 5
    assert train.fingerprint == test.fingerprint and not train.flaws()
    with pytest.raises(DataError, match="has .*3 training images, published are"):
        check_dataset(name, root)
    train.paths[0].unlink()
    test.paths[0].unlink()
    with pytest.raises(DataError, match=r"image .* has no file .*, nor have 1 more: restore it"):
        build_dataset(name, root, "test")


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_missing_and_an_empty_folder_are_one_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(DataError, match=r"is missing|is empty|files are not there") as error:
            build_dataset(name, root)
        assert "data list" in str(error.value) or "data download" in str(error.value) or "make data" in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dogs", "lists/test_list.mat"), ("inat2017", "val2017.json"), ("inat2021", "train.json"),
        ("cars", "stanford_cars/devkit/cars_train_annos.mat"), ("pets", "oxford-iiit-pet/annotations/test.txt"),
    ],
)  # fmt: skip
def test_index_files_that_are_cut_off_or_empty(tmp_path, name, file):
    path = OFFICIAL[name][0](tmp_path / "set") / file
    whole = path.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], b""):
        path.write_bytes(content)
        if name == "pets" and not content:
            break  # a list without images, which `data check` counts
        with pytest.raises(DataError, match=r"cannot be read \(") as error:
            build_dataset(name, tmp_path / "set")
        assert str(tmp_path / "set") in str(error.value) and "\n" not in str(error.value)


def test_the_lists_of_dogs_may_lie_beside_the_images(tmp_path):
    assert len(build_dataset("dogs", write_dogs(tmp_path / "set", "."), "test")) == 2


def test_labels_that_do_not_agree(tmp_path):
    root = write_dogs(tmp_path / "dogs")
    shutil.copy(root / "lists" / "train_list.mat", tmp_path / "kept.mat")
    files = np.array(["n02085620-Chihuahua/n02085620_a3.jpg"], object)
    savemat(root / "lists" / "test_list.mat", {"file_list": files, "labels": [[2]]})
    with pytest.raises(DataError, match=r"_list.mat gives n0.* the label of another breed's folder"):
        build_dataset("dogs", root)
    savemat(root / "lists" / "test_list.mat", {"file_list": files, "labels": [[3]]})
    with pytest.raises(DataError, match="no training images of these classes: Chihuahua"):
        build_dataset("dogs", root)
    savemat(root / "lists" / "test_list.mat", {"file_list": files})
    with pytest.raises(DataError, match=r"test_list.mat cannot be read \(it has no 'labels'\)"):
        build_dataset("dogs", root)

    root = write_inat(tmp_path / "inat", "2017")
    table = json.loads((root / "val2017.json").read_text())
    for changes, words in (
        ({"annotations": [{"image_id": 0, "category_id": 99}]}, "val2017.json .*category 99 is not among its categories"),
        ({"categories": [{"id": n, "name": "x"} for n in (7, 8, 9)],
          "annotations": [{"image_id": n, "category_id": 9} for n in (0, 1)]}, "category 9, which train2017.json has not"),
        ({"annotations": []}, r"val2017.json cannot be read \(it has no 0\)"),
    ):  # fmt: skip
        (root / "val2017.json").write_text(json.dumps(table | changes))
        with pytest.raises(DataError, match=words):
            build_dataset("inat2017", root)


def test_the_inner_nodes_of_nabirds_are_no_classes(tmp_path):
    root = write_nabirds(tmp_path / "set")
    train = build_dataset("nabirds", root)
    assert train.ids == ["a1-4c5e", "a2-4c5e", "b1-4c5e"] and train.boxes.tolist() == [[1, 2, 8, 6]] * 3
    (root / "image_class_labels.txt").write_text("".join(f"{one}-4c5e 9\n" for one in TRAIN + TEST))
    with pytest.raises(DataError, match="image a1-4c5e has class 9, not in classes.txt"):
        build_dataset("nabirds", root)


def test_check_counts_and_reads_every_image(tmp_path, monkeypatch, capsys):
    root = write_cub(tmp_path / "data" / "CUB_200_2011")
    known = CATALOGUE["cub200"]._replace(classes=3, train=9, test=6)
    monkeypatch.setitem(CATALOGUE, "cub200", known)
    words = "3 classes, 9 training images, 6 test images, as published; every image can be read"
    assert check_dataset("cub200") == f"CUB-200-2011 in {root}: {words}" == check_dataset("cub", root)
    with pytest.raises(ConfigError, match="unknown data set 'mine'.*; `.* train --dataset folders --data FOLDER` checks"):
        check_dataset("mine")
    monkeypatch.setitem(CATALOGUE, "cub200", known._replace(test=7))
    with pytest.raises(DataError, match="published are 7: fetch it again, .* or train on it as it is"):
        check_dataset("cub200")
    broken = build_dataset("cub200", root, "test").paths[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(
        DataError, match=r"has 6 test images, published are 7; 2 images that cannot be read: fetch it again, or [^,]*$"
    ):
        check_dataset("cub200")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all(str(path) in line for path, line in zip(broken, said, strict=True))


def test_the_list_and_the_table_of_readers_name_the_same_sets():
    assert {*CATALOGUE} == {*DATASETS} - {"folders"}
    text = list_datasets()
    assert all(
        f"{name}: {one.title}, {one.classes:,} classes" in text and one.source in text for name, one in CATALOGUE.items()
    )
    for use in (check_dataset, download_dataset):
        with pytest.raises(ConfigError, match="'inat' is the start of several data sets: say which of inat2017, inat2021"):
            use("inat")
        with pytest.raises(ConfigError, match=r"unknown data set 'inat2018' \(did you mean inat20.*choose one of cub200"):
            use("inat2018")
    with pytest.raises(ConfigError, match=r"unknown dataset 'nabird' \(did you mean nabirds"):
        build_dataset("nabird", ".")


def test_download(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda source: fetched.append(source.folder) or tmp_path / source.folder)
    assert download_dataset("cub200") == f"cub200: {tmp_path / 'CUB_200_2011'}"
    assert download_dataset("aircraft") == f"aircraft: {tmp_path / 'fgvc-aircraft-2013b'}"
    assert fetched == ["CUB_200_2011", "fgvc-aircraft-2013b"]
    for name in ("dogs", "cars", "nabirds", "inat2017", "inat2021"):
        with pytest.raises(DataError) as error:
            download_dataset(name)
        said, known = str(error.value), CATALOGUE[name]
        assert known.source in said and str(tmp_path / known.folder) in said and known.layout in said

    def offline(self):
        raise OSError("no route")

    monkeypatch.setattr(torchvision_datasets.OxfordIIITPet, "_download", offline)
    with pytest.raises(DataError, match=r"cannot fetch Oxford-IIIT Pets \(no route\): fetch it by hand from https.*pets/"):
        download_dataset("pets")
    write_flowers(tmp_path / "data")
    monkeypatch.setattr(torchvision_datasets.Flowers102, "download", lambda self: None)
    assert download_dataset("flowers") == f"flowers: {tmp_path / 'data' / 'flowers-102'}"
