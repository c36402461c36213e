import re
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from fgvc_lib.config import PROFILES
from fgvc_lib.report import site
from fgvc_lib.report.results import PAGES
from fgvc_lib.report.site import write_site

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The site of the notebooks as they are committed."""
    folder = tmp_path_factory.mktemp("site")
    notebooks = {path: nbformat.read(path, 4) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
    for file, _ in PAGES.values():
        shutil.copy(ROOT / file, folder)
    write_site(folder, notebooks, PROFILES["quick"])
    return {page.name: BeautifulSoup(page.read_text(), "html.parser") for page in folder.glob("*.html")}


def test_every_chapter_has_a_page_and_the_way_goes_through_all(pages):
    page, seen = "01_data.html", []
    while page:
        seen.append(page)
        after = pages[page].find("a", rel="next")
        page = after["href"] if after else None
    assert seen == sorted(name for name in pages if name[0].isdigit())
    assert {"results.html", "results.zh-CN.html"} <= set(pages)
    assert [link["href"] for link in pages["index.html"].select("ol.chapters a")] == seen


def test_no_link_is_broken_and_nothing_comes_from_the_network(pages):
    for name, page in pages.items():
        assert not page.find_all(["script", "link", "img", "iframe"], src=re.compile("^(https?:)?//"))
        assert not page.find_all("link", href=True)
        for link in page.find_all("a", href=True):
            target, _, anchor = link["href"].partition("#")
            if target.startswith("http"):
                continue
            assert not target or target in pages, (name, link["href"])
            assert not anchor or pages[target or name].find(id=anchor), (name, link["href"])


def test_pictures_say_what_they_show_and_tables_scroll(pages):
    for name, page in pages.items():
        for picture in page.select("main img"):
            assert len(picture.get("alt", "")) > 10 and "No description" not in picture["alt"], name
        for table in page.find_all("table"):
            assert "scroll" in table.find_parent("div")["class"]


def test_solutions_are_folded_and_tables_have_one_line_of_headers(pages):
    solutions = [one for page in pages.values() for one in page.find_all("details")]
    assert len(solutions) >= 14 and all(one.p and one.p.get_text() for one in solutions)
    header = pages["02_cnn_attention.html"].select_one("table.dataframe thead")
    assert [cell.text for cell in header.find_all("th")][:2] == ["model", "test accuracy"]
    assert len(header.find_all("tr")) == 1


def test_names_on_both_sides_of_a_table_keep_their_lines():
    table = "<table border=1><thead><tr><th>k</th><th>part_1</th></tr><tr><th>rule</th><th></th></tr></thead></table>"
    head = BeautifulSoup(site._page(table, title="t"), "html.parser").thead
    assert [line.th.text for line in head.find_all("tr")] == ["k", "rule"]
    assert "part_<wbr/>1" in str(head) and not head.parent.get("border")


def test_sections_of_the_texts(tmp_path):
    file = tmp_path / "a.md"
    file.write_text("# T\n\n## Abstract\n\nSo *it* is.\n\n## Next\n\nno")
    assert "So <em>it</em> is." in site._section(file, "## Abstract") and "no" not in site._section(file, "## Abstract")
    assert site._section(file, "## Other") == "" == site._section(tmp_path / "none.md", "## Abstract")
