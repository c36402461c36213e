"""The report as one PDF: the site's pages in a row, printed by Chromium."""

import re
import shutil
from itertools import takewhile
from pathlib import Path

from bs4 import BeautifulSoup

from ..config import project_path
from ..files import write_whole
from .build import ReportError
from .site import render, with_style

CLAIMS = "The claims of the course report"  # the section that chapter 6 and the results share, word for word
ABSTRACTS = {"Abstract": "en", "摘要": "zh-CN"}
FIGURES = ":is(.output_png, .output_jpeg, .output_svg) img"
FILL_IN = """numbers => {
  for (const place of document.querySelectorAll("[data-page-of]")) place.textContent = numbers[place.dataset.pageOf] ?? "";
}"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PAGE = re.compile(rb"(\d+) 0 obj\n<</Type /Page\n")  # as Chromium writes it: one after the other, not compressed
DESTINATION = re.compile(rb"/(\S+) \[(\d+) 0 R /XYZ")


def print_report() -> Path:
    """Print the report that `make report` has built: title, abstracts, contents, chapters, all results; return the PDF.

    Raises ReportError where no report is built, or Playwright or Chromium is missing.
    """
    folder = project_path("build/report")
    if not (folder / "index.html").is_file():
        raise ReportError(f"there is no report in {folder}: run `make report` first")
    chapters = [_chapter(page, place) for place, page in enumerate(sorted(folder.glob("[0-9]*.html")), 1)]
    for page in folder.glob("results.html"):
        appendix = _chapter(page, "A", without=CLAIMS)
        chapters.append(appendix | {"title": f"Appendix: {appendix['title']}"})
    front = BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    source, target = folder / "report.html", folder / "report.pdf"
    made = front.find("p", class_="made").extract()  # for the title page, not the abstract that it stands below
    abstracts = [part for name, lang in ABSTRACTS.items() if (part := _section(front, name, lang))]
    body = render("print.html", title=front.h1.text, made=str(made), chapters=chapters, abstracts=abstracts)
    write_whole(source, with_style(body, title=front.h1.text))
    try:
        _print(source, target)
    finally:
        source.unlink()
    return target


def _chapter(page, place, without=None):
    """A page's title, its sections' ids and titles, and its body, in which figures have numbers and ids are its own.

    without: the title of a section that is left out.
    """
    main = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").main
    for rest in main.select('nav, a.anchor-link, a[href^="results"]'):  # the last: the same page in another language
        rest.decompose()
    for details in main.find_all("details"):
        details["open"] = ""
    for number, figure in enumerate(main.select(FIGURES), 1):
        caption = BeautifulSoup('<p class="caption"><b></b> </p>', "html.parser").p
        caption.b.string = f"Figure {place}.{number}."
        caption.append(figure["alt"])
        figure.insert_after(caption)
    for heading in main.find_all("h2", string=without) if without else ():
        for rest in [heading, *takewhile(lambda one: one.name != "h2", heading.find_next_siblings())]:
            rest.decompose()
    sections = []
    for heading in main.find_all("h2"):
        heading["id"] = f"{page.stem}-{len(sections) + 1}"
        sections.append({"id": heading["id"], "title": heading.get_text()})
    title = main.h1.extract().get_text()
    return {"id": page.stem, "title": title, "sections": sections, "body": main.decode_contents()}


def _section(front, name, lang):
    """What stands below a heading of the index, up to the next one, as HTML."""
    heading = next((one for one in front.find_all("h2") if one.get_text().startswith(name)), None)
    if heading is None:
        return None
    parts = []
    for one in heading.find_next_siblings():
        if one.name in ("h1", "h2"):
            break
        parts.append(str(one))
    return {"title": name, "lang": lang, "body": "".join(parts)}


def _print(source, target):
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise ReportError("printing needs Playwright: pip install playwright") from None
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=browser)
        except Error as error:
            reason = str(error).splitlines()[0]
            raise ReportError(
                f"printing needs Chromium ({reason}): install it, or run `playwright install chromium`"
            ) from error
        page = chromium.new_page()
        page.goto(source.resolve().as_uri())
        numbers = _page_numbers(page.pdf(prefer_css_page_size=True))
        page.evaluate(FILL_IN, numbers)
        page.pdf(path=target, prefer_css_page_size=True, outline=True, tagged=True)
        chromium.close()


def _page_numbers(pdf):
    """The ids that the contents link to -> their pages in a PDF that Chromium printed."""
    pages = {number: place for place, number in enumerate(PAGE.findall(pdf), 1)}
    return {name.decode(): pages[number] for name, number in DESTINATION.findall(pdf)}
