"""The report as one PDF: the site's pages in a row, printed by Chromium."""

import shutil
from pathlib import Path

from bs4 import BeautifulSoup

from ..config import project_path
from ..files import write_whole
from .build import ReportError
from .site import render, with_style

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FOOTER = '<div style="width: 100%; text-align: center; font-size: 8px"><span class="pageNumber"></span></div>'


def print_report() -> Path:
    """Print the report that `make report` has built: title page, abstracts, contents, chapters, results; return the PDF.

    Raises ReportError where no report is built, or Playwright or Chromium is missing.
    """
    folder = project_path("build/report")
    if not (folder / "index.html").is_file():
        raise ReportError(f"there is no report in {folder}: run `make report` first")
    pages = [*sorted(folder.glob("[0-9]*.html")), *folder.glob("results.html")]
    chapters = [_chapter(page, place) for place, page in enumerate(pages, 1)]
    front = BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    source, target = folder / "report.html", folder / "report.pdf"
    made = front.find("p", class_="made").extract()  # for the title page, not the abstract that it stands below
    abstracts = [part for name in ("Abstract", "摘要") if (part := _section(front, name))]
    body = render("print.html", title=front.h1.text, made=str(made), chapters=chapters, abstracts=abstracts)
    write_whole(source, with_style(body, title=front.h1.text))
    try:
        _print(source, target)
    finally:
        source.unlink()
    return target


def _chapter(page, place):
    """A page's title, its sections' ids and titles, and its body, in which figures have numbers and ids are its own."""
    main = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").main
    for rest in main.select("nav, a.anchor-link"):
        rest.decompose()
    for details in main.find_all("details"):
        details["open"] = ""
    for number, figure in enumerate(main.select(".output_area img"), 1):
        caption = BeautifulSoup('<p class="caption"><b></b> </p>', "html.parser").p
        caption.b.string = f"Figure {place}.{number}."
        caption.append(figure["alt"])
        figure.insert_after(caption)
    sections = []
    for heading in main.find_all("h2"):
        heading["id"] = f"{page.stem}-{len(sections) + 1}"
        sections.append({"id": heading["id"], "title": heading.get_text()})
    title = main.h1.extract().get_text()
    return {"id": page.stem, "title": title, "sections": sections, "body": main.decode_contents()}


def _section(front, name):
    """What stands below a heading of the index, up to the next one, as HTML."""
    heading = next((one for one in front.find_all("h2") if one.get_text().startswith(name)), None)
    if heading is None:
        return None
    parts = []
    for one in heading.find_next_siblings():
        if one.name in ("h1", "h2"):
            break
        parts.append(str(one))
    return {"title": name, "body": "".join(parts)}


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
        margin = dict.fromkeys(("top", "bottom", "left", "right"), "16mm")
        options = {"display_header_footer": True, "header_template": "<span></span>", "footer_template": FOOTER}
        page.pdf(path=target, format="A4", margin=margin, outline=True, tagged=True, **options)
        chromium.close()
