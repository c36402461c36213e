import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from fgvc_lib.config import PROFILES
from fgvc_lib.report import pdf
from fgvc_lib.report.build import ReportError
from fgvc_lib.report.results import PAGES
from fgvc_lib.report.site import write_site

ROOT = Path(__file__).parent.parent


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The first two chapters' pages, and the pages of results, where a report is looked for."""
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))[:2]
    folder = tmp_path / "build" / "report"
    folder.mkdir(parents=True)
    for file, _ in PAGES.values():
        shutil.copy(ROOT / file, folder)
    write_site(folder, {path: nbformat.read(path, 4) for path in paths}, PROFILES["quick"])
    monkeypatch.setattr(pdf, "project_path", lambda path: tmp_path / path)
    return folder


@pytest.mark.skipif(not any(map(shutil.which, pdf.BROWSERS)), reason="Chromium is not installed")
def test_the_report_becomes_one_pdf(built):
    pytest.importorskip("playwright")
    target = pdf.print_report()
    assert target.read_bytes().startswith(b"%PDF") and not (built / "report.html").exists()
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", target, "-"], capture_output=True, text=True, check=True).stdout
        for words in (
            "Contents",
            "1. The task",
            "2. Where a CNN looks",
            "Figure 1.2.",
            "Figure 2.1.",
            "References.",
            "摘要",
        ):
            assert words in text, words
        assert text.index("Contents") < text.index("Figure 1.1.") < text.index("Figure 2.1.")
        numbers = pdf._page_numbers(target.read_bytes())
        for name, title in (("01_data", "1. The task"), ("02_cnn_attention", "2. Where a CNN"), ("results", "Appendix: R")):
            before, here = text.split("\f")[numbers[name] - 2 : numbers[name]]
            assert here.startswith(title) and not before.startswith(title), name  # each page has its chapter at the top
            assert re.search(rf"{title}.*\s+{numbers[name]}\n", text), name  # in the contents


def test_no_link_leads_to_a_file_of_the_machine_that_printed(built):
    main = BeautifulSoup(pdf._chapter(built / "results.html", "A")["body"], "html.parser")
    assert not [link for link in main.find_all("a", href=True) if not link["href"].startswith(("#", "http"))]


def test_the_appendix_leaves_out_the_claims_that_chapter_6_has(built):
    assert f"## {pdf.CLAIMS}\n" in "".join(
        cell.source for cell in nbformat.read(ROOT / "notebooks/06_results.ipynb", 4).cells
    )
    whole, short = (pdf._chapter(built / "results.html", "A", without=title) for title in (None, pdf.CLAIMS))
    titles = [section["title"] for section in whole["sections"]]
    assert pdf.CLAIMS in titles and "One rule decides all verdicts" in whole["body"]
    assert [section["title"] for section in short["sections"]] == [title for title in titles if title != pdf.CLAIMS]
    assert "One rule decides all verdicts" not in short["body"]
    assert all(words in short["body"] for words in ("Names.", "Really pre-trained models on photographs"))


def test_pictures_of_the_explorer_keep_their_own_captions(tmp_path):
    page = tmp_path / "07.html"
    shown = '<div class="output_area"><figure><img alt="a"><figcaption>b</figcaption></figure></div>'
    page.write_text(f"<main><h1>T</h1>{shown}</main>")
    assert "caption" not in pdf._chapter(page, 7)["body"].replace("figcaption", "")


def test_figures_have_numbers_and_solutions_are_open(built):
    chapter = pdf._chapter(built / "02_cnn_attention.html", 2)
    numbers = re.findall(r"<b>Figure 2\.(\d+)\.</b> \S", chapter["body"])
    assert numbers == [str(place) for place in range(1, len(numbers) + 1)] and len(numbers) >= 3
    assert chapter["title"] == "2. Where a CNN looks" and "<details open" in chapter["body"]
    solutions = BeautifulSoup(chapter["body"], "html.parser").find_all("details")
    assert len(solutions) == 2 and all(len(one.get_text()) > 50 for one in solutions)
    assert len({section["id"] for section in chapter["sections"]}) == len(chapter["sections"]) > 3


def test_without_a_report_or_a_browser_it_says_what_to_do(tmp_path, built, monkeypatch):
    monkeypatch.setattr(pdf, "BROWSERS", ())
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    with pytest.raises(ReportError, match="needs Chromium"):
        pdf.print_report()
    monkeypatch.setattr(pdf, "project_path", lambda path: tmp_path / "other" / path)
    with pytest.raises(ReportError, match="run `make report` first"):
        pdf.print_report()
