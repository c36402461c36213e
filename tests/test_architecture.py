"""The rooms of the library: which may import which, what importing costs, and that a wheel holds all it needs."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fgvc_lib

LIBRARY = Path(fgvc_lib.__file__).parent
# From the ground up: a module imports from its own level or from those before it.
LEVELS = (
    ("errors",), ("files", "config"), ("machine",), ("part_selection", "vit", "cnn", "weights", "saliency"),
    ("synthbirds",), ("datasets",), ("runs", "evaluation"), ("training",), ("experiments",), ("app",), ("report",),
    ("cli",), ("__main__",),
)  # fmt: skip
LEVEL = {room: place for place, rooms in enumerate(LEVELS) for room in rooms}
MODULES = {path.relative_to(LIBRARY): path for path in sorted(LIBRARY.rglob("*.py"))}


def arrows():
    """(module, imported module) as paths below the library without their ending, for every import anywhere in a file."""
    for name, path in MODULES.items():
        package = name.parts[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fgvc_lib":
                base = tuple(node.module.split(".")[1:])
            else:
                continue
            for alias in node.names:
                target = [part for part in (*base, alias.name) if part]
                while target and not ({Path(*target).with_suffix(".py"), Path(*target, "__init__.py")} & set(MODULES)):
                    target.pop()
                yield name.with_suffix(""), Path(*target)


def test_every_module_has_its_level():
    assert {name.parts[0].removesuffix(".py") for name in MODULES} == {*LEVEL, "__init__"}


def test_imports_run_one_way():
    found = [(one, other) for one, other in arrows() if other.parts and one.parts[0] != "__init__"]
    assert len(found) > 100
    back = [f"{one} imports {other}" for one, other in found if LEVEL[other.parts[0]] > LEVEL[one.parts[0]]]
    assert not back, "\n".join(back)


def test_no_room_imports_itself_in_a_circle():
    below = {}
    for one, other in arrows():
        if one != other and (one.name != "__init__" and other.name != "__init__"):
            below.setdefault(one, set()).add(other)
    done, under_way = set(), []

    def walk(module):
        assert module not in under_way, f"a circle of imports: {' -> '.join(map(str, [*under_way, module]))}"
        if module in done:
            return
        under_way.append(module)
        for other in below.get(module, ()):
            walk(other)
        done.add(under_way.pop())

    for module in list(below):
        walk(module)


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("fgvc_lib", {"torch", "numpy", "pandas"}),
        ("fgvc_lib.cli", {"torch", "pandas", "matplotlib"}),
        ("fgvc_lib.vit", {"pandas", "torchvision", "matplotlib"}),
        ("fgvc_lib.training", {"seaborn", "matplotlib", "IPython", "captum"}),
        ("fgvc_lib.app", {"seaborn", "IPython", "fgvc_lib.report"}),
    ],
)
def test_what_an_import_leaves_alone(module, without):
    code = f"import sys, {module}; print(sorted({without!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_import_paths_that_stay():
    from fgvc_lib.config import PROFILES, Experiment  # noqa: F401
    from fgvc_lib.datasets import CUB200, build_dataset  # noqa: F401
    from fgvc_lib.part_selection import FUSIONS, fuse_dense  # noqa: F401
    from fgvc_lib.saliency import input_gradient  # noqa: F401
    from fgvc_lib.synthbirds import generate
    from fgvc_lib.training import evaluate, fit  # noqa: F401
    from fgvc_lib.vit import PRESETS, VisionTransformer, ViTConfig  # noqa: F401
    from fgvc_lib.weights import load_pretrained  # noqa: F401

    assert callable(generate)


def test_a_wheel_holds_every_file(tmp_path):
    source = tmp_path / "source"  # a copy: building leaves files behind
    shutil.copytree(LIBRARY, source / "fgvc_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(LIBRARY.parent / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([*build, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel]
    subprocess.run(install, check=True, capture_output=True)
    inside = {path.relative_to(place / "fgvc_lib") for path in (place / "fgvc_lib").rglob("*") if path.is_file()}
    wanted = {path.relative_to(LIBRARY) for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in inside if "__pycache__" not in path.parts} == wanted

    def run(*command):
        environment = os.environ | {"PYTHONPATH": str(place)}
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )

    assert "explain" in run("-m", "fgvc_lib", "--help").stdout
    page = (
        "import nbformat as nb, pathlib, fgvc_lib\n"
        "from fgvc_lib.config import PROFILES\n"
        "from fgvc_lib.report.site import write_site\n"
        f"assert fgvc_lib.__file__.startswith({str(place)!r})\n"
        "book = nb.v4.new_notebook(cells=[nb.v4.new_markdown_cell('# A title\\n\\nA question?')])\n"
        "write_site(pathlib.Path('site'), {pathlib.Path('01_a.ipynb'): book}, PROFILES['smoke'])\n"
    )
    run("-c", page)
    assert "A title" in (tmp_path / "site" / "01_a.html").read_text()
