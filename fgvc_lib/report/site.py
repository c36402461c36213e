"""The executed notebooks and the results as one site of plain pages, which need no network to be read."""

import copy
import datetime
from pathlib import Path

from bs4 import BeautifulSoup
from jinja2 import Environment, FunctionLoader
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ..config import Experiment, project_path
from ..files import write_whole
from .words import template

TITLES = {"en": "Telling apart birds that differ in an eye-ring", "zh-CN": "如何分辨只差一个眼圈的鸟"}
WIDGET = "application/vnd.jupyter.widget-view+json"


# Pages of text beside the chapters: the file in the project, its page, its language and its name in the index.
TEXTS = (
    {"file": "RESULTS.md", "page": "results.html", "lang": "en", "name": "Results"},
    {"file": "RESULTS.zh-CN.md", "page": "results.zh-CN.html", "lang": "zh-CN", "name": "结果"},
)


def write_site(folder: Path, notebooks: dict[Path, NotebookNode], experiment: Experiment, texts: bool) -> Path:
    """Write one page per notebook, the pages of results if `texts`, and index.html into `folder`; return the index."""
    chapters = [_chapter(path, notebook) for path, notebook in notebooks.items()]
    exporter = HTMLExporter(template_name="basic", embed_images=True)
    around = [None, *chapters, None]
    for place, (chapter, notebook) in enumerate(zip(chapters, notebooks.values(), strict=True)):
        body, _ = exporter.from_notebook_node(_on_paper(notebook))
        write_whole(folder / chapter["page"], _page(body, **chapter, before=around[place], after=around[place + 2]))
    written = [text for text in TEXTS if texts and project_path(text["file"]).is_file()]
    for text in written:
        body = project_path(text["file"]).read_text(encoding="utf-8")
        for other in TEXTS:
            body = body.replace(f"]({other['file']})", f"]({other['page']})")
        title = f"{text['name']}: {TITLES[text['lang']]}"
        write_whole(folder / text["page"], _page(markdown2html(body), title=title, lang=text["lang"]))
    write_whole(folder / "index.html", _page(_index(chapters, written, experiment), title=TITLES["en"]))
    return folder / "index.html"


def _chapter(path, notebook):
    """A notebook's page, its first heading, and the paragraph below it, which is the question that it answers."""
    heading, *paragraphs = notebook.cells[0].source.split("\n\n")
    question = paragraphs[0].replace("**", "") if paragraphs else ""
    return {"page": f"{path.stem}.html", "title": heading.splitlines()[0].lstrip("# "), "question": question}


def _on_paper(notebook):
    """A copy of a notebook without the widgets, which need a kernel behind them."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if WIDGET not in one.get("data", {})]
    return notebook


def _index(chapters, texts, experiment):
    return _render(
        "index.html", title=TITLES["en"], chapters=chapters, texts=texts, profile=experiment.profile,
        data=Path(experiment.data).name if experiment.data else "the built-in birds",
        date=f"{datetime.date.today():%d %B %Y}",
        abstract=_section(project_path("README.md"), "## Abstract"),
        chinese=_section(project_path("README.zh-CN.md"), "## 摘要"),
        claims=_section(project_path("RESULTS.md"), "## The claims of the course report") if texts else "",
    )  # fmt: skip


def _section(file, heading):
    """A section of a Markdown file as HTML, with its heading; "" where there is none."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if f"{heading}\n" not in text:
        return ""
    return markdown2html(heading + text.split(heading, 1)[1].split("\n## ", 1)[0])


def _page(body, lang="en", **values):
    """A whole page; tables scroll by themselves, and a list of the sections, where there are some, follows the title."""
    soup = BeautifulSoup(body, "html.parser")
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    headings = []
    for heading in soup.find_all("h2"):
        words = heading.get_text().rstrip("¶")
        heading["id"] = heading.get("id") or words.replace(" ", "-")
        headings.append({"id": heading["id"], "words": words})
    if len(headings) > 2 and (first := soup.find("h1")):
        first.insert_after(BeautifulSoup(_render("contents.html", headings=headings), "html.parser"))
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "monokai"))
    return _render("page.html", body=str(soup), lang=lang, highlight=light, highlight_dark=dark, **values)


def _render(name, **values):
    return Environment(loader=FunctionLoader(template), autoescape=True).get_template(name).render(values)
