"""Whatever a file, a folder or an option holds: an FGVCError or a sound result, soon, and nothing written elsewhere.

`pytest -m fuzz` tries 10,000 cases; without it each test tries some dozens, the same ones every time.
"""

import dataclasses
import io
import json
import math
import os
import signal
import sys
import tarfile
import tempfile
import warnings
import zipfile
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import write_official
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from fgvc_lib import config
from fgvc_lib.app.explain import find_photos
from fgvc_lib.config import Experiment
from fgvc_lib.datasets import CUB200, build_dataset, read_photograph
from fgvc_lib.datasets.cache import cached
from fgvc_lib.datasets.download import Source, fetch
from fgvc_lib.datasets.fingerprint import remembered
from fgvc_lib.datasets.photographs import MOST_PIXELS, is_photograph
from fgvc_lib.errors import ConfigError, DataError, FGVCError, WeightsError
from fgvc_lib.experiments.ablation import SCHEMA, made, read_records, write_records
from fgvc_lib.experiments.summaries import summary
from fgvc_lib.machine.checkpoints import NAMES, load_checkpoint, save_checkpoint
from fgvc_lib.runs import FILES, Run
from fgvc_lib.training import build_model, fit, load_model
from fgvc_lib.vit import VisionTransformer, ViTConfig
from fgvc_lib.weights import load_pretrained, source_of, weights_checksum
from fgvc_lib.weights.layouts import to_google

SECONDS = 20  # that a case may take
SMALL = ViTConfig(image_size=32, stride=16, dim=8, depth=2, heads=2, mlp_dim=8, num_classes=3, fusion=None)


class TookTooLong(BaseException):
    """No Exception, so that nothing in the library catches it."""


WRITTEN = []  # while a case runs, one list: files that were opened to be written, files and folders that were made


def _watch(event, arguments, writing=os.O_WRONLY | os.O_RDWR | os.O_CREAT):
    if not WRITTEN:
        return
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] and arguments[2] & writing:
        WRITTEN[0].append(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.mkdir", "os.link", "os.symlink", "os.rename"):
        WRITTEN[0].append(os.path.abspath(os.fsdecode(arguments[event != "os.mkdir"])))


@pytest.fixture(scope="module", autouse=True)
def watching():
    """Audit hooks stay until Python ends."""
    sys.addaudithook(_watch)


@contextmanager
def case():
    """A case's folder, which is a project of its own. Leaving it, checks what the case may not have done."""

    def ring(*_):
        raise TookTooLong

    repository, here = config.REPOSITORY, Path.cwd()
    handler = signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        folder = Path(folder).resolve()
        config.REPOSITORY = folder
        os.chdir(folder)
        signal.alarm(SECONDS)
        WRITTEN[:] = [[]]
        try:
            yield folder
            assert not [path for path in WRITTEN[0] if not f"{path}/".startswith(f"{folder}/")]
        finally:
            WRITTEN.clear()
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)
            os.chdir(here)
            config.REPOSITORY = repository
    # What Pillow, NumPy and torch find odd in a file that they read all the same, they may say.
    ours = [one for one in said if Path(one.filename).is_relative_to(config.REPOSITORY / "fgvc_lib")]
    assert not [one for one in ours if not issubclass(one.category, (DeprecationWarning, ResourceWarning))]


def fuzzed(*strategies, share=1.0):
    """A test that calls a function (folder, *values) with what the strategies give. share: of the usual number of cases."""

    def decorate(check):
        @pytest.mark.parametrize("cases", [int(30 * share), pytest.param(int(750 * share), marks=pytest.mark.fuzz)])
        def test(cases):
            @settings(
                max_examples=cases, derandomize=cases < 100, database=None, deadline=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(st.tuples(*strategies))
            def run(values):
                with case() as folder:
                    check(folder, *values)

            run()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


ODD = [
    10**400, -(10**400), "\ud800", "\udc80", "x\0", "~x\0", "x" * 300, "~", "..", "/", "timm:", "timm:a.b.c",
    "timm:hf-hub:a/b", "timm:\ud800", "vit_s16", "resnet18", "folders", "mul",
]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)  # fmt: skip
ODD_BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", b"(" * 3000, b"-1", b"\n"]),
)


@st.composite
def altered(draw, originals):
    """One of some contents, some of its bytes overwritten, inserted, removed or cut off."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["overwrite", "overwrite", "insert", "remove", "cut"]))
        if kind == "cut":
            del data[place:]
        elif kind == "remove":
            del data[place : place + draw(st.integers(1, 40))]
        else:
            new = draw(ODD_BYTES)
            data[place : place + len(new) * (kind == "overwrite")] = new
    return bytes(data)


# --- data folders ---


@cache
def official():
    """The files of a small set in CUB-200-2011's layout, with boxes and parts, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_official(Path(folder) / "cub")
        (root / "attributes.csv").write_text("class_id,species,crown\n1,a,red\n2,b,blue\n")
        (root / "diagnostic_parts.csv").write_text("class_id,part_id\n1,2\n2,5\n")
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


INDEX = [
    "images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "parts/parts.txt",
    "parts/part_locs.txt", "attributes.csv", "diagnostic_parts.csv",
]  # fmt: skip
TOKENS = [
    "0", "-1", "1", "3", "99", "1_0", "１", "1e3", "1e999", "nan", "inf", "9" * 25, "9" * 400, "9" * 5000, "0x1", "", "a b",
    "..", "../..", "/etc/passwd", "001.Class_1/0.png", "images/001.Class_1/0.png", "001.Class_1\\0.png", "x\0y", "\0/a", "é",
    "e\u0301", "x" * 300, "~", ".", "//", "\u2028", "\x85", "\x1c", "\ufeff",
]  # fmt: skip


@st.composite
def index_file(draw):
    """(name, content): an index file with lines, words, encoding and line ends changed, or bytes; None: there is none."""
    name = draw(st.sampled_from(INDEX))
    if draw(st.integers(0, 3)) == 0:
        return name, draw(st.none() | altered([official()[name]]) | st.binary(max_size=40))
    lines = official()[name].decode().splitlines()
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        words = lines[place].split(" ")
        change = draw(st.sampled_from(["word", "word", "word", "double", "remove", "swap", "blank"]))
        if change == "word":
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(TOKENS) | st.text(max_size=6))
            lines[place] = " ".join(words)
        elif change == "double":
            lines.insert(place, lines[place])
        elif change == "remove" and len(lines) > 1:
            del lines[place]
        elif change == "swap":
            lines[place], lines[0] = lines[0], lines[place]
        else:
            lines.insert(place, draw(st.sampled_from(["", " ", "\t", "#"])))
    text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\v"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8"] * 5 + ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "gb18030"]))
    return name, text.encode(encoding, "replace")


@fuzzed(st.lists(index_file(), min_size=1, max_size=2), share=1.5)
def test_index_files(folder, changed):
    root = folder / "cub"
    for name, content in (official() | dict(changed)).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (root / name).write_bytes(content)
    try:
        train, test = (CUB200(root, split) for split in ("train", "test"))
        for images in (train, test):
            images.check()
    except DataError:
        return
    sound_splits(train, test)
    assert train.fingerprint == test.fingerprint
    for images in (train, test):
        for annotation in (images.boxes, images.parts):
            assert annotation is None or (len(annotation) == len(images) and not np.isinf(annotation).any())
        predictions = pd.DataFrame({"id": images.ids})  # as a run keeps them
        assert pd.read_parquet(io.BytesIO(predictions.to_parquet()))["id"].tolist() == images.ids
        images.sizes()
        try:
            images.crop_to_boxes()
            images.check()
        except DataError:
            continue
        assert (images.sizes() > 0).all()


def sound_splits(train, test):
    """Every file is in one split, with a class that has training images."""
    assert {*train.labels} == {*range(len(train.classes))} >= {*test.labels} and train.classes == test.classes
    paths = [os.path.realpath(path) for path in (*train.paths, *test.paths)]
    assert len(set(paths)) == len(paths) == len(train) + len(test) == len(train.entries)
    for images in (train, test):
        assert len(set(images.ids)) == len(images.ids) == len(images.labels)
        for index in range(min(3, len(images))):
            assert images[index][0].mode == "RGB"


@st.composite
def coco(draw):
    """An annotation file of iNaturalist, with other values or bytes."""
    table = {
        "categories": [{"id": one, "name": f"class {one}"} for one in (1, 2)],
        "annotations": [{"image_id": one, "category_id": one % 2 + 1} for one in range(6)],
        "images": [{"id": one, "file_name": f"{one}.png"} for one in range(6)],
    }
    for name in draw(st.lists(st.sampled_from(sorted(table)), max_size=2)):
        one = table[name][draw(st.integers(0, len(table[name]) - 1))]
        one[draw(st.sampled_from([*one, "more"]))] = draw(ANYTHING)
    if draw(st.booleans()):
        table[draw(st.sampled_from(sorted(table)))] = draw(ANYTHING)
    content = json.dumps(table).encode()
    return draw(altered([content])) if draw(st.integers(0, 3)) == 0 else content


@fuzzed(coco(), st.booleans(), share=0.7)
def test_annotations_of_inaturalist(folder, content, both):
    whole = json.dumps({
        "categories": [{"id": one, "name": f"class {one}"} for one in (1, 2)],
        "annotations": [{"image_id": one, "category_id": one % 2 + 1} for one in range(6, 8)],
        "images": [{"id": one, "file_name": f"{one}.png"} for one in range(6, 8)],
    }).encode()  # fmt: skip
    root = folder / "inat"
    root.mkdir()
    for number in range(8):
        (root / f"{number}.png").write_bytes(png(number))
    (root / "train2017.json").write_bytes(content)
    (root / "val2017.json").write_bytes(content if both else whole)
    try:
        train, test = (build_dataset("inat2017", root, split) for split in ("train", "test"))
    except DataError:
        return
    sound_splits(train, test)
    assert len(train.fingerprint) == 64


@cache
def png(number=0):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


NAMES_OF_FOLDERS = st.sampled_from([
    "a", "b", "A", "train", "Train", "test", "val", "validation", "images", ".hidden", "__MACOSX", "é", "e\u0301", "~", "*",
    "[a]", "a b", "new\nline", "-x", os.fsdecode(b"\xff\xfe"), "x" * 255, "..a", "CON", "%s", "{0}",
]) | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..")
)  # fmt: skip
CONTENTS = st.sampled_from(["image", "image", "image", "image", "text", "empty", "cut", "link", "nowhere"])


@fuzzed(
    st.lists(st.tuples(st.lists(NAMES_OF_FOLDERS, min_size=0, max_size=3), st.lists(CONTENTS, max_size=7)), max_size=7),
    st.sampled_from([".png", ".PNG", ".jpg", "", ".txt", ".é", os.fsdecode(b".\xff")]),
    st.integers(0, 9),
)
def test_folders(folder, tree, suffix, target):
    root = folder / "photographs"
    root.mkdir()
    there = [root]
    for parts, contents in tree:
        place = root.joinpath(*parts)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:  # its name is that of a file already, or of a link in a circle
            continue
        for number, content in enumerate(contents):
            path = place / f"{number}{suffix}"
            if os.path.lexists(path):
                continue
            if content in ("link", "nowhere"):
                path.symlink_to("nowhere" if content == "nowhere" else there[target % len(there)])
            else:
                data = png(len(there) % 256)
                path.write_bytes({"image": data, "text": b"text", "empty": b"", "cut": data[:40]}[content])
            there.append(path)
        there.append(place)
    with suppress(DataError):
        inside = {os.path.realpath(path) for path in root.rglob("*")}
        assert {os.path.realpath(path) for path in find_photos([root], folder / "out")} <= inside
    try:
        train, test = (build_dataset("folders", root, split) for split in ("train", "test"))
        for images in (train, test):
            images.skip_broken()
            assert all(remark.strip() for remark in images.remarks)
    except DataError:
        return
    assert len(train) + len(test) + train.skipped + test.skipped == len(train.entries)
    assert train.fingerprint == test.fingerprint
    if not train.skipped + test.skipped:
        sound_splits(train, test)


# --- photographs ---


@cache
def photographs():
    """Small photographs in each format and several modes, as bytes."""
    grey = np.arange(80).reshape(8, 10)
    made, exif = [], Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8))
    for kind, mode, options in [
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}), ("PNG", "RGB", {}),
        ("PNG", "P", {"transparency": 3}), ("PNG", "RGBA", {"exif": exif}), ("PNG", "1", {}), ("PNG", "LA", {}),
        ("WEBP", "RGB", {"exif": exif}), ("WEBP", "RGBA", {"lossless": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("GIF", "P", {"save_all": True, "append_images": [colours]}), ("TIFF", "RGB", {"exif": exif}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "CMYK", {}), ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "L", {"save_all": True, "append_images": [colours]}), ("JPEG2000", "RGB", {}), ("PPM", "RGB", {}),
        ("PPM", "1", {}), ("AVIF", "RGB", {}),
    ]:  # fmt: skip
        if kind != "AVIF" or features.check("avif"):
            buffer = io.BytesIO()
            colours.convert(mode).save(buffer, kind, **options)
            made.append(buffer.getvalue())
    for array, kind in (
        (grey.astype(np.uint16) * 800, "PNG"),
        (grey.astype(np.float32), "TIFF"),
        (grey.astype(np.int32), "TIFF"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind)
        made.append(buffer.getvalue())
    return [
        *made,
        b"P2 2 2 255 1 2 3 4",
        b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc",
        b"Pf 2 1 -1\n" + bytes(8),
    ]


def sound_photograph(folder, content):
    """Read bytes as an upload and as a file: the same photograph, or the same complaint."""
    path, found = folder / "photograph", []
    path.write_bytes(content)
    is_photograph(path)
    for source in (path, io.BytesIO(content)):
        try:
            image, remarks = read_photograph(source, "it")
        except DataError as error:
            found.append(str(error))
        else:
            assert image.mode == "RGB" and 1 <= image.width * image.height <= MOST_PIXELS
            assert all(isinstance(remark, str) for remark in remarks)
            found.append((image.size, image.tobytes(), remarks))
    assert found[0] == found[1]
    return found[0]


@fuzzed(altered(photographs()), share=1.5)
def test_bytes_of_photographs(folder, content):
    sound_photograph(folder, content)


@fuzzed(
    st.sampled_from(
        [
            "1",
            "L",
            "LA",
            "P",
            "PA",
            "RGB",
            "RGBA",
            "CMYK",
            "YCbCr",
            "LAB",
            "HSV",
            "I",
            "F",
            "I;16",
            "I;16B",
            "La",
            "RGBa",
            "RGBX",
        ]
    ),
    st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(1, 20_000), (20_000, 1), (257, 3)]),
    st.integers(0, 9),
    st.booleans(),
)
def test_modes_and_sizes_of_photographs(folder, mode, kind, size, orientation, transparent):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    try:
        Image.new(mode, size).save(
            buffer, kind, exif=exif, **{"transparency": 0} if transparent and mode in "PL1RGB" else {}
        )
    except (OSError, ValueError, KeyError, TypeError, SystemError):  # no such combination
        return
    found = sound_photograph(folder, buffer.getvalue())
    assert found[0] in (size, size[::-1])


# --- archives ---

MEMBERS = st.tuples(
    st.sampled_from(
        ["cub/a", "cub/b/c", "../evil", "/tmp/evil-of-a-fuzz", "cub/../../evil", "cub/link/evil", "cub", "", "cub/\0"]
    )
    | st.text(max_size=5).map("cub/{}".format),
    st.sampled_from(
        [tarfile.REGTYPE] * 4
        + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"x", b"L"]
    ),
    st.sampled_from(["..", "/tmp", "cub/a", "a", "../../evil"]),
    st.binary(max_size=20),
    st.sampled_from([0o644, 0, 0o7777]),
    st.sampled_from([0, -1, 2**40, 1e20]),
)


@st.composite
def archive(draw):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=draw(st.sampled_from(["w", "w:gz", "w:xz", "w:bz2"]))) as tar:
        for name, kind, link, content, mode, date in draw(st.lists(MEMBERS, max_size=5)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size, member.mode, member.mtime = kind, link, len(content), mode, date
            tar.addfile(member, io.BytesIO(content))
    return draw(altered([buffer.getvalue()])) if draw(st.booleans()) else buffer.getvalue()


@fuzzed(archive(), share=0.5)
def test_archives(folder, content):
    data = folder / "data"
    data.mkdir()
    (data / "cub.tgz").write_bytes(content)
    try:
        place = fetch(Source("http://localhost:9", None, "cub.tgz", "cub"), data)
    except FGVCError:
        assert not [path for path in data.iterdir() if path.name != "cub.tgz"]
        return
    assert place == data / "cub" and not [path for path in place.rglob("*") if not (path.is_dir() or path.is_file())]
    assert not [path for path in place.rglob("*") if path.is_symlink()]


# --- weights ---


@cache
def state():
    torch.manual_seed(0)
    return VisionTransformer(SMALL).state_dict()


def sound_load(source):
    """Load weights into a model -> what is to be said of it, or None where they were refused and the model left alone."""
    torch.manual_seed(1)
    model = VisionTransformer(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        report = load_pretrained(model, source)
    except WeightsError:
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        return
    names = [*report.loaded, *report.resized, *report.fresh]
    assert sorted(names) == sorted(before) and str(report)
    after = model.state_dict()
    assert all(tensor.isfinite().all() and tensor.shape == before[name].shape for name, tensor in after.items())
    assert {name for name in before if torch.equal(before[name], after[name])} >= set(report.fresh)
    assert {*report.fresh} <= {"head.weight", "head.bias"}


def zipped(parts, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in parts:
            archive.writestr(name, content)
    return buffer.getvalue()


@cache
def weights_parts():
    """Files of weights as the parts of a zip archive: Google's .npz and PyTorch's."""
    npz, pth = io.BytesIO(), io.BytesIO()
    np.savez(npz, **to_google(state(), SMALL.heads))
    torch.save(state(), pth)
    archives = [zipfile.ZipFile(npz), zipfile.ZipFile(pth)]
    return [[(name, archive.read(name)) for name in archive.namelist()] for archive in archives]


@cache
def weights_files():
    old = io.BytesIO()
    torch.save(state(), old, _use_new_zipfile_serialization=False)
    return [*map(zipped, weights_parts()), safetensors.torch.save(state()), old.getvalue()]


@st.composite
def weights_file(draw):
    """A file of weights with bytes changed: anywhere, or inside an archive whose checksums fit; or a header of odd JSON."""
    kind = draw(st.sampled_from(["anywhere", "inside", "inside", "header"]))
    if kind == "anywhere":
        return draw(altered(weights_files()))
    if kind == "inside":
        parts = draw(st.sampled_from(weights_parts())).copy()
        place = draw(st.integers(0, min(3, len(parts) - 1)))
        name, content = parts[place]
        parts[place] = (name, draw(altered([content])))
        if draw(st.booleans()):
            parts[place] = (draw(st.sampled_from([name, parts[-1][0], "../a.npy", "head/kernel.npy", "a", "head"])), content)
        return zipped(parts, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    whole = safetensors.torch.save(state())
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    for name in draw(st.lists(st.sampled_from(sorted(header)), max_size=2)):
        numbers = st.integers(-1, 2**70) | st.floats() | st.lists(st.integers(-1, 2**64), max_size=4)
        value = draw(st.none() | numbers | st.sampled_from(
            ["F32", "F64", "I8", "BOOL", "F8_E4M3", "F4", "C64", "x", {}, [[8, 8]]]))  # fmt: skip
        header[name] = header[name] | {draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"])): value}
    text = json.dumps(header).encode()
    return draw(st.sampled_from([len(text), 0, 2**63, size])).to_bytes(8, "little") + text + whole[8 + size :]


@fuzzed(weights_file(), share=1.5)
def test_bytes_of_weights(folder, content):
    path = folder / "weights.bin"
    path.write_bytes(content)
    sound_load(path)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 24]), max_size=4)
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64,
    torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip


@st.composite
def odd_value(draw):
    """Something that a state dict may hold."""
    kind = draw(st.sampled_from(["tensor", "tensor", "tensor", "array", "other", "layout", "numbers"]))
    shape = draw(SHAPES)
    if kind == "tensor":
        return torch.zeros(shape, dtype=draw(st.sampled_from(DTYPES)))
    if kind == "numbers":
        return torch.full(shape, draw(st.sampled_from([math.nan, math.inf, 1e300, -0.0])), dtype=torch.float64)
    if kind == "array":
        kinds = ["<f4", ">f4", ">i4", "f8", "O", "U3", "V2", "u2,u2", "i1,i1", "c8", "M8[s]", "?", "f2", "g"]
        return np.zeros(shape, draw(st.sampled_from(kinds)))
    if kind == "layout":
        return draw(st.sampled_from([
            torch.eye(8).to_sparse(), torch.quantize_per_tensor(torch.eye(8), 0.1, 0, torch.qint8),
            torch.zeros(8, device="meta"), torch.zeros(1).expand(2**20, 2**20), torch.zeros(1).expand(2**40), torch.eye(8).T,
            torch.nn.Parameter(torch.zeros(8)), np.full(8, 1e300),
        ]))  # fmt: skip
    return draw(st.sampled_from([None, 1, "text", [torch.zeros(8)], {}, {"a": 1}, object()]))


ODD_NAMES = [
    "head", "blocks.0", "blocks", "", ".", "model.norm.weight", "blocks.0.ls1.gamma", "norm.weight\n", "layernorm.weight",
    "blocks.x.norm1.weight", "blocks.0.attn.query.weight", f"blocks.{'9' * 5000}.norm1.weight", "_orig_mod.norm.weight",
    "dist_token", "Transformer/encoder_norm/scale", "text_model" * 40, "stages" * 300, "." * 20_000, 3, ("a", 1), b"a",
]  # fmt: skip


@st.composite
def odd_state(draw):
    """A state dict with names, values and wrapping changed."""
    tree = dict(state()) if draw(st.booleans()) else to_google(state(), SMALL.heads)
    known = sorted(tree)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*known, *ODD_NAMES]) | st.text(max_size=4))
        kind = draw(st.sampled_from(["value", "value", "remove", "rename"]))
        if kind == "value":
            tree[name] = draw(odd_value())
        elif kind == "remove":
            tree.pop(name, None)
        elif name in tree:
            tree[draw(st.sampled_from([*known, *ODD_NAMES]))] = tree.pop(name)
    wrapping = draw(st.sampled_from(["", "", "", "model", "twice", "prefix", "deep", "circle", "bushes", "both"]))
    if wrapping == "circle":
        tree["itself"] = tree
    for _ in range({"deep": 3000, "bushes": 60}.get(wrapping, 0)):
        tree = {"a": tree} | ({"b": tree} if wrapping == "bushes" else {})
    return {
        "model": {"model": tree, "epoch": 3}, "twice": {"model": tree, "model_ema": tree},
        "both": tree | {"state_dict": tree},
        "prefix": {f"module.{name}": value for name, value in tree.items()} if wrapping == "prefix" else None,
    }.get(wrapping, tree)  # fmt: skip


@fuzzed(odd_state(), share=1.5)
def test_names_and_shapes_of_weights(folder, tree):
    sound_load(tree)


# --- experiments and runs ---

FIELDS = [field.name for field in dataclasses.fields(Experiment)]
VALUES = st.one_of(
    ANYTHING, ANYTHING, st.binary(max_size=3), st.just(np.zeros(3)), st.just(np.float64(1)), st.just(1j), st.just(Path())
)


@fuzzed(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), VALUES, min_size=1, max_size=4),
    st.integers(1, 10**6),
    share=1.5,
)
def test_experiments(folder, fields, images):
    try:
        experiment = Experiment().replace(**fields)
    except ConfigError:
        return
    assert Experiment().replace(**json.loads(json.dumps(dataclasses.asdict(experiment)))) == experiment
    assert len(experiment.hash()) == 12 and experiment.title
    on = experiment.on(images)
    assert on.steps >= max(1, on.warmup_steps) and not on.epochs
    for look in (
        lambda: build_dataset(experiment.dataset, experiment.data or folder / "empty"),
        lambda: source_of(experiment),
        lambda: experiment.weights != "dinov2" and weights_checksum(experiment),
        lambda: shape_of(experiment),
    ):
        with suppress(FGVCError):
            look()


def shape_of(experiment):
    with torch.device("meta"):
        assert build_model(experiment.replace(weights=""), 3)


@cache
def finished_run():
    """(the files of a finished run by name, its folder's name)."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, content in official().items():
            (folder / "cub" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "cub" / name).write_bytes(content)
        experiment = Experiment(
            data=str(folder / "cub"), image_size=32, resize_size=36, batch_size=2, steps=2, warmup_steps=1, fusion="mul",
        )  # fmt: skip
        run = fit(experiment, progress=False, runs=folder)
        return {name: (run.folder / name).read_bytes() for name in FILES}, run.folder.name


@st.composite
def run_file(draw):
    """(name, content) of a file of a run: bytes changed, or JSON with other values."""
    name = draw(st.sampled_from([*FILES, "experiment.json", "environment.json"]))
    content = finished_run()[0][name]
    if name == "model.safetensors":  # all that can go wrong is in its header
        size = 8 + int.from_bytes(content[:8], "little")
        return name, draw(altered([content[:size]])) + content[size:]
    if name == "predictions.parquet" or draw(st.integers(0, 2)) == 0:
        return name, draw(altered([content]) | st.just(b"[" * 100_000))
    if name == "metrics.jsonl":
        lines = draw(
            st.lists(
                st.dictionaries(st.sampled_from(["step", "loss", "lr"]) | st.text(max_size=3), ANYTHING) | ANYTHING,
                max_size=3,
            )
        )
        return name, "\n".join(map(json.dumps, lines)).encode()
    record = json.loads(content)
    record |= draw(st.dictionaries(st.sampled_from(sorted(record)), ANYTHING, max_size=2))
    record = {key: record[key] for key in record.keys() - draw(st.sets(st.sampled_from(sorted(record)), max_size=1))}
    return name, json.dumps(draw(st.just(record) | st.just(record) | ANYTHING | st.just(sorted(record)))).encode()


@fuzzed(run_file(), st.booleans(), share=1.5)
def test_files_of_runs(folder, changed, checked):
    files, name = finished_run()
    run = Run(folder / name)
    run.folder.mkdir()
    for file, content in (files | dict([changed])).items():
        if file == "environment.json" and not checked:  # as somebody could make them who changes a file on purpose
            with suppress(ValueError, TypeError, AttributeError, RecursionError):
                record = json.loads(content)
                record.pop("sha256", None)
                content = json.dumps(record).encode()
        (run.folder / file).write_bytes(content)
    damaged = run.damaged()
    assert set(damaged) <= set(FILES) and run.finished and all(isinstance(reason, str) for reason in damaged.values())
    if checked and "environment.json" not in damaged and isinstance(run.environment.get("sha256"), dict):
        assert changed[0] in damaged or files[changed[0]] == changed[1] or changed[0] == "environment.json"
    for look in (
        lambda: run.metrics,
        lambda: run.correct,
        lambda: run.experiment,
        lambda: shape_of(run.experiment),
        lambda: load_model(run),
    ):
        with suppress(FGVCError):
            look()


@cache
def checkpoint_parts():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        place.mkdir()
        model = torch.nn.Linear(2, 2)
        schedule = torch.optim.AdamW(model.parameters())
        save_checkpoint(
            place, {"model": model.state_dict(), "optimizer": schedule.state_dict(), "state": {"step": 3, "recent": []}}
        )
        with zipfile.ZipFile(place / NAMES[0]) as archive:
            return [(name, archive.read(name)) for name in archive.namelist()]


@st.composite
def checkpoint(draw):
    """A checkpoint with bytes changed anywhere, or in its pickle with checksums that fit, or of another content."""
    parts = checkpoint_parts().copy()
    kind = draw(st.sampled_from(["anywhere", "inside", "inside", "other"]))
    if kind == "anywhere":
        return draw(altered([zipped(parts)]))
    if kind == "inside":
        place = next(place for place, (name, _) in enumerate(parts) if name.endswith("data.pkl"))
        parts[place] = (parts[place][0], draw(altered([parts[place][1]])))
        return zipped(parts)
    buffer = io.BytesIO()
    torch.save(draw(ANYTHING | st.fixed_dictionaries({"run": st.just("run"), "state": ANYTHING}) | st.fixed_dictionaries(
        {"run": st.just("run"), "state": st.fixed_dictionaries({"step": ANYTHING})})), buffer)  # fmt: skip
    return buffer.getvalue()


@fuzzed(st.lists(st.none() | checkpoint(), min_size=2, max_size=2), share=0.7)
def test_checkpoints(folder, contents):
    run = folder / "run"
    run.mkdir()
    for name, content in zip(NAMES, contents, strict=True):
        if content is not None:
            (run / name).write_bytes(content)
    found = load_checkpoint(run)
    assert found is None or (found["run"] == "run" and isinstance(found["state"]["step"], int))
    assert {path.name.removesuffix(".bad") for path in run.iterdir()} == {
        name for name, content in zip(NAMES, contents, strict=True) if content is not None
    }


@cache
def records():
    """Records of two variants, two seeds and three images, as parquet."""
    frame = pd.DataFrame([
        {"id": image, "label": image % 2, "prediction": (image + seed) % 2, "probability": 0.5 + image / 10, "parts": [1, 2],
         "variant": key, "seed": seed}
        for key in ("vit_overlap", "psm_mul") for seed in (0, 1) for image in (1, 2, 3)
    ])  # fmt: skip
    frame["variant"] = frame["variant"].astype("category")
    about = {"run": "r", "data": "d", "weights": "", "experiment": {}, "environment": {"classes": 2}}
    runs = [{"variant": key, "seed": seed, **about} for key in ("vit_overlap", "psm_mul") for seed in (0, 1)]
    frame.attrs = {"schema": SCHEMA, "runs": json.dumps(runs)}
    return frame


@st.composite
def records_file(draw):
    """A file of records with bytes changed, or with other columns, rows and attributes."""
    frame = records().copy()
    if draw(st.booleans()):
        return draw(altered([frame.to_parquet(), frame.to_parquet(compression="zstd")]))
    kind = draw(st.sampled_from(["attribute", "attribute", "column", "drop", "rows", "other"]))
    column = draw(st.sampled_from(sorted(frame)))
    if kind == "attribute":
        frame.attrs[draw(st.sampled_from(["runs", "schema"]))] = draw(
            st.just(SCHEMA) | ANYTHING.map(json.dumps) | st.just("[" * 100_000)
        )
    elif kind == "column":
        frame[column] = draw(st.sampled_from([None, 1, 1.5, "text", math.nan, math.inf, True, b"a"]))
    elif kind == "drop":
        frame = frame.drop(columns=column)
    elif kind == "rows":
        frame = frame.iloc[draw(st.lists(st.integers(0, len(frame) - 1), max_size=14))]
    else:
        frame = pd.DataFrame(
            draw(st.dictionaries(st.sampled_from(["id", "seed"]), st.lists(st.integers(0, 3), min_size=2, max_size=2)))
        )
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@fuzzed(records_file())
def test_files_of_records(folder, content):
    path = folder / "records.parquet"
    path.write_bytes(content)
    try:
        found = read_records(path)
        table = summary(found)
    except DataError:
        return
    assert {run["variant"] for run in made(found)} == {*found["variant"]}
    assert table["accuracy"].between(0, 1).all() and (table["seeds"] * table["images"]).sum() == len(found)
    write_records(found, path)


@fuzzed(st.data(), share=0.5)
def test_what_the_library_keeps_for_itself(folder, data):
    """Decoded images and what was seen of files: made again where it is damaged."""
    path, shape = folder / "set-state.npy", (9, 3, 2, 2)
    pixels = np.arange(108, dtype=np.uint8).reshape(shape)
    cached(path, shape, pixels.__getitem__)
    path.write_bytes(data.draw(altered([path.read_bytes(), zipped([("a.npy", path.read_bytes())])])))
    np.testing.assert_array_equal(cached(path, shape, pixels.__getitem__), pixels)
    seen = [folder / "set-state.npy"]
    assert remembered("looks", folder, seen, lambda path: path.name) == ["set-state.npy"]
    (memory,) = (folder / "data" / "cache").iterdir()
    memory.write_bytes(data.draw(st.sampled_from([b"[" * 100_000, b"\xff", b"[[[], 1]]", b"1", b"[1]", b"null", b""])))
    assert remembered("looks", folder, seen, lambda path: path.name) == ["set-state.npy"]
