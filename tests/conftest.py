import numpy as np
import pytest
from PIL import Image, ImageDraw

from fgvc_lib import config
from fgvc_lib.config import Experiment, project_path
from fgvc_lib.synthbirds.generation import generate


def write_cub(root, classes=3, train=3, test=2, size=40, ending="png"):
    """A folder in CUB-200-2011's layout with images of tinted noise, no boxes and no parts; classes: a number, or names."""
    rng = np.random.default_rng(0)
    lines = {"images.txt": [], "image_class_labels.txt": [], "train_test_split.txt": [], "classes.txt": []}
    names = [f"Class_{label}" for label in range(1, classes + 1)] if isinstance(classes, int) else classes
    for label, name in enumerate(names, 1):
        folder = f"{label:03}.{name}"
        lines["classes.txt"].append(f"{label} {folder}")
        (root / "images" / folder).mkdir(parents=True)
        for number in range(train + test):
            image_id = len(lines["images.txt"]) + 1
            pixels = rng.integers(0, 156, (size, size, 3), dtype=np.uint8)
            pixels[..., label % 3] += 99  # the class is the tint
            Image.fromarray(pixels).save(root / "images" / folder / f"{number}.{ending}")
            lines["images.txt"].append(f"{image_id} {folder}/{number}.{ending}")
            lines["image_class_labels.txt"].append(f"{image_id} {label}")
            lines["train_test_split.txt"].append(f"{image_id} {int(number < train)}")
    for name, rows in lines.items():
        (root / name).write_text("\n".join(rows) + "\n")
    return root


def project_at(monkeypatch, folder):
    """A project of the test's own: its data/, runs/ and figures/ are in that folder, the working folder too."""
    monkeypatch.setattr(config, "REPOSITORY", folder)
    monkeypatch.chdir(folder)


PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
# Width and height of a photograph, its box, and where its visible parts are.
ANNOTATED = [
    ((500, 333), (60.0, 27.0, 325.0, 304.0), {2: (312.0, 82.0), 7: (287.5, 210.25), 15: (110.0, 150.0)}),
    ((375, 500), (139.5, 30.25, 153.4, 264.7), {1: (186.0, 250.0), 2: (247.0, 79.0)}),
    ((260, 200), (-3.5, 20.0, 270.0, 150.5), {2: (40.0, 60.0), 14: (222.0, 130.0)}),  # its box leaves the photograph
]


def write_official(root, **options):
    """CUB-200-2011's layout with boxes and parts: photographs, one of them grey, with a white dot on each visible part.

    options: of `write_cub`; without any there are ten photographs.
    """
    root = write_cub(root, **{"classes": 2} | options)
    (root / "parts").mkdir()
    (root / "parts" / "parts.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(PARTS, 1)))
    boxes, places = [], []
    for line in (root / "images.txt").read_text().splitlines():
        image_id, path = line.split()
        size, box, parts = ANNOTATED[int(image_id) % 3]
        photograph = Image.new("L" if image_id == "4" else "RGB", size)
        for x, y in parts.values():
            ImageDraw.Draw(photograph).ellipse((x - 9, y - 9, x + 9, y + 9), "white")
        photograph.save(root / "images" / path)
        boxes.append(f"{image_id} {' '.join(map(str, box))}\n")
        for part in range(1, len(PARTS) + 1):
            x, y = parts.get(part, (0.0, 0.0))
            places.append(f"{image_id} {part} {x} {y} {int(part in parts)}\n")
    (root / "bounding_boxes.txt").write_text("".join(boxes))
    (root / "parts" / "part_locs.txt").write_text("".join(places))
    return root


@pytest.fixture(scope="session", autouse=True)
def no_memories_left():
    """Tests, and the processes that they start, leave no memory of what they read in the project's cache."""
    cache = project_path("data/cache")
    before = set(cache.glob("*.json"))
    yield
    for memory in set(cache.glob("*.json")) - before:
        memory.unlink(missing_ok=True)


@pytest.fixture
def cub(tmp_path):
    return write_cub(tmp_path / "cub")


@pytest.fixture
def official(tmp_path):
    return write_official(tmp_path / "official")


@pytest.fixture(scope="session")
def birds(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "birds", "smoke", progress=False)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A runs folder of the test's own."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def tiny(cub, runs):
    """An experiment of a second."""
    return Experiment(
        data=str(cub), image_size=32, resize_size=36, batch_size=4, steps=4, warmup_steps=1, log_every=1, checkpoint_every=2,
        stride=12, fusion="mul",
    )  # fmt: skip
