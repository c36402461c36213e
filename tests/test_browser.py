"""The explorer in a real browser: as a page of its own, and in JupyterLab. Skipped where there is no Chromium."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from fgvc_lib.config import PROFILES
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.report.results import PAGES
from fgvc_lib.report.site import write_site
from fgvc_lib.training import fit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
ROOT = Path(__file__).parents[1]
CONTROLS = {"button", "combobox", "slider", "spinbutton", "textbox"}
PATIENCE = 120_000  # ms, for a machine that has other work


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with the explorer's notebook and two runs of profile smoke."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "07_explorer.ipynb", folder / "notebooks")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for key in ("resnet18", "psm_mul"):
            fit(report_variants(PROFILES["smoke"])[key].experiment, progress=False, runs=folder / "runs")
    finally:
        os.chdir(before)
    return folder


@contextlib.contextmanager
def serve(project, *command):
    """A server's address, while it runs in the project's folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PROFILE": "smoke", "DATA": "", "RUNS": str(project / "runs")}
    with open(project / "server.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", *command, f"--port={port}"], cwd=project, env=environment,
                                  stdout=log, stderr=log)  # fmt: skip
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    socket.create_connection(("localhost", port)).close()
                    break
                if server.poll() is not None:
                    pytest.fail((project / "server.log").read_text())
                time.sleep(0.5)
            yield f"http://localhost:{port}"
        finally:
            server.terminate()
            server.wait(30)


@contextlib.contextmanager
def browse(address, **viewport):
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1300, "height": 1000} | viewport)
        page.set_default_timeout(PATIENCE)
        page.goto(address, timeout=PATIENCE)
        yield page
        browser.close()


def choose(page, file):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Your photograph").click()
    chooser.value.set_files(file)


def options_of_make_app():
    command = ["make", "--no-print-directory", "-n", "app"]  # or, under `make test`, the last line is make's own
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [word for word in shlex.split(said.splitlines()[-1]) if word.startswith("--") and not word.startswith("--port")]


def test_the_page(project, tmp_path):
    photo = tmp_path / "bird.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)).save(photo)
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"no image")
    notebook = "notebooks/07_explorer.ipynb"
    large = tmp_path / "large.png"
    large.write_bytes(bytes(31_000_000))
    with serve(project, "voila", notebook, *options_of_make_app()) as address, browse(address) as page:
        page.wait_for_selector(".looks img")
        assert "def " not in page.inner_text("body") and page.locator(".looks section").count() == 1
        overlay = lambda: page.locator(".looks img").nth(1).get_attribute("src")  # noqa: E731

        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        controls = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in CONTROLS]
        assert len(controls) == 11 and all(name for _, name in controls), controls

        first, species = overlay(), page.inner_text(".looks h3")
        page.evaluate("document.querySelector('.looks [role=alert][aria-live]').seen = true")
        page.get_by_role("spinbutton", name="image").press("ArrowUp")  # by keyboard: the next image
        page.wait_for_function("old => document.querySelectorAll('.looks img')[1].src != old", arg=first)
        assert "True: " in page.inner_text(".looks [role=alert][aria-live]")  # inserted anew, so it is read out
        assert not page.evaluate("document.querySelector('.looks [role=alert][aria-live]').seen")
        second = overlay()
        page.get_by_label("fusion").select_option("lastlayer")
        page.wait_for_function("old => document.querySelectorAll('.looks img')[1].src != old", arg=second)
        page.wait_for_function("document.querySelector('.looks').innerText.includes('fused by lastlayer')")

        choose(page, photo)
        page.wait_for_selector("text=Your photograph: the model knows")
        assert "% sure" in page.inner_text(".looks h3")
        choose(page, junk)
        page.wait_for_selector("[role=alert]:has-text('junk.png is not an image that can be read')")
        choose(page, large)
        page.wait_for_selector("[role=alert]:has-text('large.png has 31 MB: choose a file below 30 MB')")
        assert "% sure" in page.inner_text(".looks h3") and species
        assert page.evaluate("[...document.querySelectorAll('.looks img')].every(i => i.alt && i.naturalWidth)")
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_function("document.querySelector('.looks').scrollWidth <= window.innerWidth")  # once it is laid out
        page.screenshot(path=project / "page.png", full_page=True)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (820, "dark"), (1400, "light")])
def test_the_report_is_readable_at_any_width(tmp_path, width, scheme):
    notebooks = {path: nbformat.read(path, 4) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
    for file, _ in PAGES.values():
        shutil.copy(ROOT / file, tmp_path)
    index = write_site(tmp_path, notebooks, PROFILES["quick"])
    with browse(index.as_uri(), width=width) as page:
        page.emulate_media(color_scheme=scheme)
        for path in sorted(tmp_path.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path.name} scrolls sideways"
            assert page.evaluate("[...document.querySelectorAll('main img')].every(i => i.complete && i.naturalWidth)")
        page.goto((tmp_path / "03_vit_training.html").as_uri())
        page.locator("main [role=button]").first.press("Enter")
        assert page.locator("dialog[open] img").get_attribute("alt")
        page.locator("dialog[open]").click()
        assert not page.locator("dialog[open]").count()


def test_the_notebook_in_jupyterlab(project):
    quiet = ("--no-browser", "--allow-root", "--ServerApp.token=", "--ServerApp.password=", "--LabApp.news_url=")
    with serve(project, "jupyterlab", *quiet) as address, browse(f"{address}/lab/tree/notebooks/07_explorer.ipynb") as page:
        page.wait_for_selector("text=| Idle")  # what is run before the kernel is there is lost
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function("document.querySelectorAll('.jp-OutputArea .looks').length == 2")
        assert not page.locator("text=Traceback").count()
