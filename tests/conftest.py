import numpy as np
import pytest
from PIL import Image

from fgvc_lib import config
from fgvc_lib.config import Experiment, project_path
from fgvc_lib.synthbirds.generation import generate


def write_cub(root, classes=3, train=3, test=2, size=40):
    """A folder in CUB-200-2011's layout with images of tinted noise, without boxes and parts."""
    rng = np.random.default_rng(0)
    lines = {"images.txt": [], "image_class_labels.txt": [], "train_test_split.txt": [], "classes.txt": []}
    for label in range(1, classes + 1):
        folder = f"{label:03}.Class_{label}"
        lines["classes.txt"].append(f"{label} {folder}")
        (root / "images" / folder).mkdir(parents=True)
        for number in range(train + test):
            image_id = len(lines["images.txt"]) + 1
            pixels = rng.integers(0, 156, (size, size, 3), dtype=np.uint8)
            pixels[..., label % 3] += 99  # the class is the tint
            Image.fromarray(pixels).save(root / "images" / folder / f"{number}.png")
            lines["images.txt"].append(f"{image_id} {folder}/{number}.png")
            lines["image_class_labels.txt"].append(f"{image_id} {label}")
            lines["train_test_split.txt"].append(f"{image_id} {int(number < train)}")
    for name, rows in lines.items():
        (root / name).write_text("\n".join(rows) + "\n")
    return root


def project_at(monkeypatch, folder):
    """A project of the test's own: its data/, runs/ and figures/ are in that folder, the working folder too."""
    monkeypatch.setattr(config, "REPOSITORY", folder)
    monkeypatch.chdir(folder)


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
