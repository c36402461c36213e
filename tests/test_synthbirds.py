"""The built-in bird set: layout, determinism, and that species differ where they are said to."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import tyro
from PIL import Image

from fgvc_lib.errors import ConfigError, DataError, StorageError
from fgvc_lib.synthbirds import generation
from fgvc_lib.synthbirds.drawing import draw
from fgvc_lib.synthbirds.generation import generate
from fgvc_lib.synthbirds.species import ATTRIBUTES, MAX_SPECIES, PARTS, SIZES, WORLDS, Sizes, diagnostic, species_list

# Other versions of the JPEG library may write other bytes for the same pixels, hence a pin for each.
SMOKE_FILES = "079d5502daa8bc996e0a220b95f35c1209d000ad264df0af87c228f229b0fa82"
SMOKE_PIXELS = "0f6be967336d2a188a6b810d3815f38a55c715bea2a444523ba39e7255f7d14b"
# How far a part reaches from its point, relative to the image side.
REACH = {
    "beak": 0.45,
    "crown": 0.25,
    "left eye": 0.1,
    "right eye": 0.1,
    "throat": 0.22,
    "breast": 0.28,
    "left wing": 0.3,
    "right wing": 0.3,
    "tail": 0.5,
    "left leg": 0.4,
    "right leg": 0.4,
}


def checksum(root):
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def rows(path):
    return [line.split(" ") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("birds") / "set", "smoke", progress=False)


def test_layout(smoke):
    sizes, species = SIZES["smoke"], species_list("smoke")
    images = rows(smoke / "images.txt")
    count = sizes.genera * sizes.species * (sizes.train + sizes.test)
    ids = [str(i) for i in range(1, count + 1)]
    assert [i for i, _ in images] == ids
    classes = dict(rows(smoke / "classes.txt"))
    assert classes["2"] == f"002.{species[1].name}" and len(classes) == len(species)
    labels = dict(rows(smoke / "image_class_labels.txt"))
    split = dict(rows(smoke / "train_test_split.txt"))
    boxes = {i: [float(v) for v in box] for i, *box in rows(smoke / "bounding_boxes.txt")}
    assert list(labels) == list(split) == list(boxes) == ids
    assert sum(v == "1" for v in split.values()) == sizes.genera * sizes.species * sizes.train
    for i, path in images:
        folder, file = path.split("/")
        assert folder == classes[labels[i]] and file.startswith(folder[4:] + "_")
        with Image.open(smoke / "images" / path) as image:
            assert image.size == (sizes.image_size, sizes.image_size) and image.mode == "RGB"
    parts = dict(line.split(" ", 1) for line in (smoke / "parts/parts.txt").read_text().splitlines())
    assert list(parts.values()) == list(PARTS) and list(parts) == [str(k) for k in range(1, 16)]
    places = rows(smoke / "parts/part_locs.txt")
    assert [row[:2] for row in places] == [[i, k] for i in ids for k in parts]
    for i, _, x, y, visible in places:
        left, top, width, height = boxes[i]
        x, y = float(x), float(y)
        if visible == "1":
            assert left <= x <= left + width and top <= y <= top + height
        else:
            assert (x, y, visible) == (0, 0, "0")
    assert json.loads((smoke / "synthbirds.json").read_text())["seed"] == 0
    assert sum(1 for path in smoke.rglob("*") if path.is_file()) == count + 10


def test_tables_say_what_diagnostic_says(smoke):
    species = species_list("smoke")
    with open(smoke / "attributes.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["name"], tuple((a, row[a]) for a in ATTRIBUTES)) for row in table] == [
        (s.name, s.attributes) for s in species
    ]
    with open(smoke / "diagnostic_parts.csv", newline="") as file:
        found = [tuple(row.values()) for row in csv.DictReader(file)]
    wanted = [
        (str(a.index + 1), str(b.index + 1), name, str(PARTS.index(part) + 1), part)
        for a in species
        for b in species
        if a.genus == b.genus and a is not b
        for name in diagnostic(a, b)
        for part in ATTRIBUTES[name]["parts"]
    ]
    assert found == wanted and wanted


def test_pinned(smoke):
    pixels = hashlib.sha256()
    for species in species_list("smoke"):
        pixels.update(draw(species, np.random.default_rng(species.index), 112)[0].tobytes())
    assert pixels.hexdigest() == SMOKE_PIXELS
    assert checksum(smoke) == SMOKE_FILES


def test_same_bytes_with_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "POOL_ABOVE", 0)
    monkeypatch.setattr(generation, "CHUNK", 5)
    sizes = Sizes(2, 2, 2, 2, 64)
    sums = [checksum(generate(tmp_path / str(n), sizes, 3, workers=n, progress=False)) for n in (1, 2)]
    assert sums[0] == sums[1]
    assert checksum(generate(tmp_path / "other", sizes, 4, progress=False)) != sums[0]
    more = generate(tmp_path / "more", Sizes(2, 2, 3, 2, 64), 3, progress=False)
    first = rows(more / "images.txt")[0][1]
    assert (more / "images" / first).read_bytes() == (tmp_path / "1" / "images" / first).read_bytes()


SCRIPT = """
from fgvc_lib.synthbirds import generate, generation
generation.POOL_ABOVE = {limit}
generation.CHUNK = 5
print("drawn", len(list(generate("set", "smoke", workers=2, progress=False).rglob("*.jpg"))))
"""


def run_script(folder, limit, indent=""):
    """A script as a user writes it, in a process of its own."""
    lines = SCRIPT.format(limit=limit).strip().replace("\n", f"\n{indent}")
    guard = 'if __name__ == "__main__":\n' if indent else ""
    (folder / "script.py").write_text(f"{guard}{indent}{lines}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_script_needs_no_guard_for_a_small_set(tmp_path):
    assert generation.POOL_ABOVE >= 840  # images of quick
    run = run_script(tmp_path, limit=40)
    assert (run.returncode, run.stdout) == (0, "drawn 40\n"), run.stderr


def test_a_script_without_a_guard_is_told_so_for_a_large_set(tmp_path):
    run = run_script(tmp_path, limit=39)
    # Python may have a warning of semaphores come after it.
    told = [line for line in run.stderr.splitlines() if line.startswith("fgvc_lib.errors.")]
    assert run.returncode == 1 and len(told) == 1 and told[0].startswith("fgvc_lib.errors.StorageError: "), run.stderr
    assert 'if __name__ == "__main__":' in told[0] and "python -m fgvc_lib draw" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]  # nothing half-drawn is left
    run = run_script(tmp_path, limit=39, indent="    ")
    assert (run.returncode, run.stdout) == (0, "drawn 40\n"), run.stderr


def test_on_the_command_line(smoke, tmp_path, capsys):
    options = {"config": (tyro.conf.PositionalRequiredArgs,)}
    root = tyro.cli(generate, args=[str(tmp_path / "set"), "--sizes", "smoke", "--no-progress"], **options)
    assert root == tmp_path / "set" and checksum(root) == checksum(smoke)
    with pytest.raises(ConfigError, match="unknown sizes 'huge'"):
        tyro.cli(generate, args=[str(tmp_path / "set"), "--sizes", "huge"], **options)
    with pytest.raises(SystemExit):
        tyro.cli(generate, args=["--help"], **options)
    said = capsys.readouterr().out
    assert "--sizes {smoke,quick,full}" in said and "(default: quick)" in said


def test_worlds_share_no_species():
    benchmark, pretrain = (species_list("full", world) for world in WORLDS)
    assert not {s.name for s in benchmark} & {s.name for s in pretrain}
    assert not {(s.genus, s.attributes) for s in benchmark} & {(s.genus, s.attributes) for s in pretrain}
    for found in (benchmark, pretrain):
        assert len({s.name for s in found}) == len(found) == 200
        assert [s.index for s in found] == list(range(200))


def test_names_never_repeat():
    names = [s.genus for world in WORLDS for s in species_list(Sizes(1000, 1, 1, 1), world)]
    assert len(set(names)) == 2000


@pytest.mark.parametrize("sizes", [SIZES["full"], Sizes(3, MAX_SPECIES, 1, 1)])
def test_siblings_differ_in_one_to_three_attributes(sizes):
    species = species_list(sizes)
    assert len({s.name for s in species}) == len(species) == sizes.genera * sizes.species
    for a, b in combinations(species, 2):
        if a.genus == b.genus:
            assert 1 <= len(diagnostic(a, b)) <= 3
            if a.name.startswith("Common_"):
                assert len(diagnostic(a, b)) <= 2


def test_siblings_differ_only_near_the_diagnostic_parts():
    checked, size = set(), 224
    y, x = np.mgrid[:size, :size]
    for seed, (a, b) in enumerate(combinations(species_list(Sizes(6, 5, 1, 1)), 2)):
        if a.genus != b.genus:
            continue
        (one, _, here), (two, _, there) = (draw(s, np.random.default_rng(seed), size) for s in (a, b))
        parts = [part for name in diagnostic(a, b) for part in ATTRIBUTES[name]["parts"]]
        if not all(any(here[p][2] for p in ATTRIBUTES[name]["parts"]) for name in diagnostic(a, b)):
            continue  # behind a twig or outside
        changed = np.abs(one.astype(int) - two).max(2) > 8
        near = np.zeros_like(changed)
        for part in parts:
            for px, py, visible in (here[part], there[part]):
                if visible:
                    near |= np.hypot(x - px, y - py) < REACH[part] * size
        assert changed.sum() >= 12 and not (changed & ~near).any(), (a.name, b.name)
        checked |= set(diagnostic(a, b))
    assert checked == set(ATTRIBUTES)


def test_drawing():
    species = species_list("quick")[0]
    image, box, parts = draw(species, np.random.default_rng(0), 131)
    assert image.shape == (131, 131, 3) and image.dtype == np.uint8
    assert len(box) == 4 and tuple(parts) == PARTS
    sides = [[parts[f"{side} {part}"][2] for part in ("eye", "wing")] for side in ("left", "right")]
    assert [0, 0] in sides  # the side turned away


def test_finished_set_is_kept_and_others_are_refused(smoke, tmp_path):
    before = (smoke / "synthbirds.json").stat().st_mtime_ns
    assert generate(str(smoke), "smoke", progress=False) == smoke
    assert (smoke / "synthbirds.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="delete it"):
        generate(smoke, "smoke", seed=1, progress=False)
    (tmp_path / "mine.txt").write_text("x")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(DataError, match="bird set: use another folder"):
            generate(taken, "smoke", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    sizes = Sizes(1, 1, 1, 1, 64)
    with monkeypatch.context() as patch:
        patch.setattr(generation, "_write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", sizes, progress=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "set").mkdir()  # an empty folder is no hindrance
    assert (generate(tmp_path / "set", sizes, progress=False) / "images.txt").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": "huge"},
        {"sizes": 3},
        {"sizes": [2, 2, 6, 4]},
        {"world": "mars"},
        {"seed": -1},
        {"workers": 0},
        {"workers": "2"},
        {"sizes": Sizes(0, 1, 1, 1)},
        {"sizes": Sizes(1, 1, 1, 0)},
        {"sizes": Sizes(1, 1.5, 1, 1)},
        {"sizes": Sizes(1, 1, 1, 1, 63)},
        {"sizes": Sizes(1, MAX_SPECIES + 1, 1, 1)},
    ],
)
def test_bad_options(tmp_path, options):
    with pytest.raises(ConfigError) as error:
        generate(tmp_path / "set", progress=False, **{"sizes": "smoke", **options})
    if options in ({"sizes": "huge"}, {"world": "mars"}):
        assert all(name in str(error.value) for name in (SIZES if "sizes" in options else WORLDS))
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        generate(tmp_path / "file" / "set", "smoke", progress=False)

    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        generate(tmp_path / "set", "smoke", workers=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
