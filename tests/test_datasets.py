import os
import shutil

import numpy as np
import pytest
import scipy.io
from conftest import write_cub
from PIL import Image

from fgvc_lib.config import Experiment
from fgvc_lib.datasets.build import build_dataset, open_splits
from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.image_set import class_title
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.runs import find_run

REAL = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "data", "CUB_40")


def test_reads_the_official_split(cub):
    train, test = CUB200(cub, "train"), CUB200(cub, "test")
    assert (len(train), len(test)) == (9, 6)
    assert train.classes == ["001.Class_1", "002.Class_2", "003.Class_3"]
    assert train.labels == [0, 0, 0, 1, 1, 1, 2, 2, 2] and set(train.ids).isdisjoint(test.ids)
    assert train.boxes is None and train.parts is None
    assert train.fingerprint == test.fingerprint


def test_reads_boxes_and_parts(birds):
    test = CUB200(birds, "test")
    assert test.boxes.shape == (len(test), 4) and test.parts.shape == (len(test), 15, 3)
    assert test.part_names[0] == "back" and test.diagnostic.shape == (len(test.classes), 15)
    assert test.diagnostic.any(1).all()
    assert (test.boxes[:, 2:] > 0).all()


def test_photographs_are_cropped_to_their_boxes(official):
    whole, images = CUB200(official), CUB200(official)
    images.crop_to_boxes()
    assert whole.sizes()[:3].tolist() == [[375, 500], [260, 200], [500, 333]]
    # 139.5 + 153.4 and 30.25 + 264.7; -3.5 + 270, and the photograph is 260 wide; whole pixels
    assert images.sizes()[:3].tolist() == [[293 - 139, 295 - 30], [260, 171 - 20], [325, 304]]
    assert np.array_equal(images.load(2), np.asarray(whole.load(2))[27:331, 60:385])
    assert images.load(1).size == (260, 151) and images.load(0).size == (154, 265)
    np.testing.assert_allclose(images.boxes[:3], [[0.5, 0.25, 153.4, 264.7], [-3.5, 0, 270, 150.5], [0, 0, 325, 304]])
    np.testing.assert_allclose(images.parts[2, 1], [312 - 60, 82 - 27, 1])
    images.drop([0])
    assert images.sizes().tolist()[:2] == [[260, 151], [325, 304]] and images.load(1).size == (325, 304)


def test_boxes_that_cannot_be_cropped_to(official, cub):
    with pytest.raises(DataError, match="no boxes around the birds: set crop_to_box to False"):
        open_splits(Experiment(data=str(cub), crop_to_box=True))
    lines = (official / "bounding_boxes.txt").read_text().splitlines()
    for box, words in (("5 5 0 9", "box of image 3 has no area"), ("5 nan 9 9", "box of image 3 has no area")):
        (official / "bounding_boxes.txt").write_text("\n".join([*lines[:2], f"3 {box}", *lines[3:]]))
        with pytest.raises(DataError, match=words):
            open_splits(Experiment(data=str(official), crop_to_box=True))
    for box in ("600 5 9 9", "-9 5 3 9"):
        (official / "bounding_boxes.txt").write_text("\n".join([*lines[:2], f"3 {box}", *lines[3:]]))
        train, _ = open_splits(Experiment(data=str(official), crop_to_box=True))
        assert [*train.flaws()] == [2]
        for read in (lambda images: images.load(2), CUB200.sizes):
            with pytest.raises(DataError, match=r"2\.png has a box that lies outside it: mend the box"):
                read(train)


def test_a_run_on_crops_is_another_run_and_depends_on_the_boxes(official, runs):
    whole = Experiment(data=str(official))
    cropped = whole.replace(crop_to_box=True)
    before = [find_run(one).folder for one in (whole, cropped)]
    train, test = open_splits(cropped)
    assert train.fingerprint == test.fingerprint and before[0] != before[1]
    boxes = official / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("4 139.5", "4 140.5"))  # of a test image
    after = [find_run(one).folder for one in (whole, cropped)]
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.skipif(not os.path.isdir(REAL), reason="the real photographs are not here")
def test_reads_real_photographs():
    train, test = CUB200(REAL, "train"), CUB200(REAL, "test")
    assert (len(train), len(test), len(train.classes)) == (1200, 1192, 40)
    assert class_title(train.classes[0]) == "Indigo Bunting"
    image, label = train[0]
    assert image.mode == "RGB" and image.size == (227, 227) and label == 0


def test_missing_empty_and_foreign_folders(tmp_path):
    with pytest.raises(DataError, match="nowhere is missing"):
        CUB200(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty is empty"):
        CUB200(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(DataError, match="layout: the file .*images.txt is missing"):
        CUB200(tmp_path / "other")


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("images.txt", "seven a/b.jpg", "images.txt, line 2: 'seven a/b.jpg'"),
        ("images.txt", "2", "images.txt, line 2: '2'"),
        ("train_test_split.txt", "2 yes", "train_test_split.txt, line 2"),
        ("image_class_labels.txt", "2 99", "image 2 has class 99"),
        ("image_class_labels.txt", "99 1", "no line for image 2"),
        ("images.txt", "2 001.Class_1/none.png", "image 2 has no file"),
    ],
)
def test_a_bad_line_is_named(cub, file, line, words):
    lines = (cub / file).read_text().splitlines()
    (cub / file).write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(DataError, match=words):
        CUB200(cub)


def test_spaces_at_the_end_of_a_line_are_no_part_of_a_name(cub):
    wanted = CUB200(cub)
    for name in ("images.txt", "classes.txt"):
        lines = (cub / name).read_text().splitlines()
        (cub / name).write_text("".join(f" {line} \t\r\n" for line in lines))
    found = CUB200(cub)
    assert found.paths == wanted.paths and found.classes == wanted.classes


@pytest.mark.parametrize("text", ["class,name\n1,a\n", "class_id\n1\n1\n2\n3\n", "class_id\n1\n2\n", "", "a\n1,2,3\n4"])
def test_a_table_of_attributes_without_each_class_once(cub, text):
    (cub / "attributes.csv").write_text("class_id,bill\n3,red\n1,blue\n2,red\n")
    assert CUB200(cub).attributes["bill"].tolist() == ["blue", "red", "red"]
    (cub / "attributes.csv").write_text(text)
    with pytest.raises(DataError, match=r"attributes\.csv has no column class_id with each class once"):
        CUB200(cub)


def test_an_id_without_an_image(cub):
    with open(cub / "train_test_split.txt", "a") as file:
        file.write("77 1\n")
    with pytest.raises(DataError, match=r"train_test_split.txt names image 77, an id without an image"):
        CUB200(cub)


def test_a_class_without_training_images(tmp_path):
    root = write_cub(tmp_path / "cub", train=1)
    lines = (root / "train_test_split.txt").read_text().splitlines()
    (root / "train_test_split.txt").write_text("\n".join(["1 0", *lines[1:]]))
    with pytest.raises(DataError, match=r"without training images: 001.Class_1"):
        CUB200(root)


def test_a_bad_box_line_is_named(cub):
    (cub / "bounding_boxes.txt").write_text("1 0 0 ten 10\n")
    with pytest.raises(DataError, match=r"bounding_boxes.txt, line 1"):
        CUB200(cub)


def test_a_truncated_image_is_found(cub):
    train = CUB200(cub)
    train.paths[3].write_bytes(train.paths[3].read_bytes()[:200])
    assert [*train.flaws()] == [3]
    with pytest.raises(DataError, match=train.paths[3].name):
        train[3]
    train.skip_broken()
    assert len(train) == 8 and train.skipped == 1 and not train.flaws()


def test_unknown_names_list_the_known(cub):
    with pytest.raises(ConfigError, match="'birds'.*cub200, folders, aircraft"):
        build_dataset("birds", cub)
    with pytest.raises(ConfigError, match="'val'.*train or test"):
        CUB200(cub, "val")


def test_torchvision_sets(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("707-320\nA380\n")
    for split, names in (("trainval", ("1", "2")), ("test", ("3",))):
        (data / f"images_variant_{split}.txt").write_text("".join(f"{name} A380\n" for name in names))
        for name in names:
            Image.new("RGB", (20, 20)).save(data / "images" / f"{name}.jpg")
    train, test = (build_dataset("aircraft", tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 1) and train.labels == [1, 1] and train.classes == ["707-320", "A380"]
    assert train[0][0].mode == "RGB" and train.fingerprint
    Image.new("RGB", (99, 99)).save(data / "images" / "3.jpg")  # a run is of both splits
    assert build_dataset("aircraft", tmp_path, "train").fingerprint != train.fingerprint
    (data / "images" / "3.jpg").unlink()
    with pytest.raises(DataError, match=r"image 1 has no file .*3\.jpg"):
        build_dataset("aircraft", tmp_path, "test")
    with pytest.raises(ConfigError, match="'val'.*train or test"):
        build_dataset("aircraft", tmp_path, "val")
    (data / "images_variant_test.txt").write_text("3 A380\n\n")
    with pytest.raises(DataError, match="FGVCAircraft in .* cannot be read .ValueError: "):
        build_dataset("aircraft", tmp_path)
    for name in ("aircraft", "flowers", "pets", "cars"):
        with pytest.raises(DataError, match="cannot be read .its files are not there"):
            build_dataset(name, tmp_path / "nothing")


def test_a_folder_a_class(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("finch", "wren"):
            for number in range(count):
                file = tmp_path / "apart" / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 9)).save(file)
    train, test = (build_dataset("folders", tmp_path / "apart", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 4) and train.classes == test.classes == ["finch", "wren"]
    together = tmp_path / "apart" / "train"
    with pytest.raises(DataError, match="finch has no image for split test: without train/ and test/ it takes five"):
        build_dataset("folders", together, "test")
    for name in ("finch", "wren"):
        for number in range(3, 11):
            Image.new("RGB", (9, 9)).save(together / name / f"{number:02}.png")
    train, test = (build_dataset("folders", together, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 4) and not {*train.paths} & {*test.paths}
    assert train.fingerprint == test.fingerprint != build_dataset("folders", tmp_path / "apart", "train").fingerprint
    for bad in (tmp_path / "none", tmp_path / "apart" / "train" / "finch"):
        with pytest.raises(DataError, match="is no folder with a folder of images"):
            build_dataset("folders", bad)


def write_classes(root, images, suffix="png"):
    """A folder of drawn images for each class; images: {class: number of images}."""
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([len(name), number]).integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.{suffix}")
    return root


def test_hidden_files_and_folders_stay_out(tmp_path):
    root = write_classes(tmp_path / "set", {"finch": 10, "wren": 10})
    shutil.copytree(root / "finch", root / "finch" / ".ipynb_checkpoints")
    shutil.copy(root / "finch" / "0.png", root / "finch" / "._0.png")
    assert [len(build_dataset("folders", root, split)) for split in ("train", "test")] == [16, 4]


def test_links_are_followed_and_circles_end(tmp_path):
    store = write_classes(tmp_path / "store", {"finch": 10, "wren": 10})
    (store / "finch" / "more").mkdir()
    (store / "finch" / "1.png").rename(store / "finch" / "more" / "1.png")
    (store / "finch" / "more" / "circle").symlink_to(store / "finch")
    root = tmp_path / "set"
    root.mkdir()
    for name in ("finch", "wren"):
        (root / name).symlink_to(store / name)
    train, test = (build_dataset("folders", root, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 4) and (root / "finch" / "more" / "1.png") in train.paths + test.paths


def test_a_link_to_nothing_is_named(tmp_path):
    root = write_classes(tmp_path / "set", {"finch": 10, "wren": 10})
    (root / "finch" / "99.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"has no file .*99\.png"):
        build_dataset("folders", root)


@pytest.mark.parametrize(
    ("line", "words"), [("99,1", "line 3: there is no class_id '99'"), ("1,77", "line 3: there is no part_id '77'")]
)
def test_an_unknown_class_or_part_is_named(birds, tmp_path, line, words):
    root = shutil.copytree(birds, tmp_path / "birds")
    (root / "diagnostic_parts.csv").write_text(f"class_id,part_id\n1,1\n{line}\n")
    with pytest.raises(DataError, match=rf"diagnostic_parts\.csv, {words}"):
        CUB200(root)


def test_diagnostic_parts_by_class_and_part(birds, tmp_path):
    root = shutil.copytree(birds, tmp_path / "birds")
    (root / "diagnostic_parts.csv").write_text("class_id,part_id\n1,2\n2,15\n")
    assert np.argwhere(CUB200(root).diagnostic).tolist() == [[0, 1], [1, 14]]


def test_cars_whose_labels_are_numpy_numbers(tmp_path):
    cars = tmp_path / "stanford_cars"
    fields = [("class", "u1"), ("fname", object)]
    for split in ("train", "test"):
        folder = cars / f"cars_{split}"
        folder.mkdir(parents=True)
        for name in ("1.jpg", "2.jpg"):
            Image.new("RGB", (9, 9), "red" if split == "train" else "blue").save(folder / name)
        table = {"annotations": np.array([(1, "1.jpg"), (2, "2.jpg")], dtype=fields)}
        (cars / "devkit").mkdir(exist_ok=True)
        name = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        scipy.io.savemat(cars / name, table)
    scipy.io.savemat(cars / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})
    train = build_dataset("cars", tmp_path)
    assert train.labels == [0, 1] and train.classes == ["Audi", "BMW"] and len(train.fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace("/", "\\").encode(),
        lambda text: text.replace(" ", " images/").encode(),
    ],
)
def test_index_files_as_other_systems_write_them(cub, change):
    (cub / "images.txt").write_bytes(change((cub / "images.txt").read_text()))
    assert len(CUB200(cub)) == 9


def test_index_files_with_letters_composed_otherwise_or_no_utf8(cub):
    text = (cub / "images.txt").read_bytes()
    (cub / "images" / "001.Class_1" / "0.png").rename(cub / "images" / "001.Class_1" / "e\u0301.png")
    (cub / "images.txt").write_bytes(text.replace(b"001.Class_1/0.png", "001.Class_1/\u00e9.png".encode()))
    assert CUB200(cub).paths[0].name == "e\u0301.png"
    latin = os.fsdecode(b"\xe9\xe8.png")
    (cub / "images" / "001.Class_1" / "e\u0301.png").rename(cub / "images" / "001.Class_1" / latin)
    (cub / "images.txt").write_bytes(text.replace(b"001.Class_1/0.png", b"001.Class_1/\xe9\xe8.png"))
    assert CUB200(cub).paths[0].name == latin and CUB200(cub).load(0).size == (40, 40)


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("images.txt", "3 001.Class_1/9.png", r"images.txt, line 16: line 3 is of 3, too"),
        ("image_class_labels.txt", "1 2", r"image_class_labels.txt, line 16: line 1 is of 1, too"),
        ("images.txt", "16 001.Class_1/0.png", "no line for image 16"),
    ],
)
def test_what_an_index_file_names_twice(cub, file, line, words):
    with (cub / file).open("a") as lines:
        lines.write(f"{line}\n")
    with pytest.raises(DataError, match=words):
        CUB200(cub)


def test_one_photograph_under_two_ids(cub):
    text = (cub / "images.txt").read_text().replace("001.Class_1/1.png", "001.Class_1/0.png")
    (cub / "images.txt").write_text(text)
    with pytest.raises(DataError, match=r"images 1 and 2 are one file, .*0\.png"):
        CUB200(cub)


def test_a_split_that_is_neither_training_nor_testing(cub):
    (cub / "train_test_split.txt").write_text((cub / "train_test_split.txt").read_text().replace("4 0", "4 2"))
    with pytest.raises(DataError, match="image 4 has 2: 1 is for training, 0 for testing"):
        CUB200(cub)


def test_the_folder_above_or_below_the_layout(cub):
    assert CUB200(cub.parent).root == cub and len(CUB200(cub.parent)) == 9
    with pytest.raises(DataError, match=f"Name the folder above, {cub}"):
        CUB200(cub / "images")
