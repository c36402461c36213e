"""The executed notebooks and the results as one site of plain pages, which need no network to be read."""

import base64
import datetime
import re
from html import escape, unescape
from pathlib import Path

from bs4 import BeautifulSoup
from jinja2 import Environment, FunctionLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ..config import Experiment, project_path
from ..files import write_whole
from .results import PAGES
from .words import Words, template

WIDGET = "application/vnd.jupyter.widget-view+json"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


def write_site(folder: Path, notebooks: dict[Path, NotebookNode], experiment: Experiment) -> Path:
    """Write one page per notebook, one per page of results that lies in `folder`, and index.html there; return the index."""
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(_without_widgets)
    chapters = [_chapter(path, notebook) for path, notebook in notebooks.items()]
    around = [None, *chapters, None]
    for notebook, before, chapter, after in zip(notebooks.values(), around, chapters, around[2:], strict=False):
        body, _ = exporter.from_notebook_node(notebook)
        write_whole(folder / chapter["page"], _page(body, **chapter, before=before, after=after))
    results = []
    for lang, (file, _) in PAGES.items():
        if (folder / file).is_file():
            words = Words(lang).text["site"]
            page = re.sub(r"RESULTS(.*)\.md", r"results\1.html", file)
            text = re.sub(r"\]\(RESULTS(.*?)\.md\)", r"](results\1.html)", (folder / file).read_text(encoding="utf-8"))
            title = f"{words['results']}: {words['title']}"
            write_whole(folder / page, _page(markdown2html(text), title=title, lang=lang))
            results.append({"page": page, "lang": lang, "name": words["results"]})
    title = Words().text["site"]["title"]
    index = render(
        "index.html",
        title=title,
        chapters=chapters,
        texts=results,
        profile=experiment.profile,
        data=Path(experiment.data).name if experiment.data else "the built-in birds",
        date=f"{datetime.date.today():%d %B %Y}",
        abstract=_section(project_path("README.md"), "## Abstract"),
        chinese=_section(project_path("README.zh-CN.md"), "## 摘要"),
        claims=_section(folder / "RESULTS.md", "## The claims of the course report"),
        chinese_claims=_section(folder / "RESULTS.zh-CN.md", "## 逐条检验课程报告的结论"),
    )
    write_whole(folder / "index.html", _page(index, title=title))
    return folder / "index.html"


def _without_widgets(notebook, resources):
    """Leave out the widgets, which need a kernel behind them."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if WIDGET not in one.get("data", {})]
    return notebook, resources


def _chapter(path, notebook):
    """A notebook's page, its first heading, and the paragraph below it, which is the question that it answers."""
    heading, *paragraphs = notebook.cells[0].source.split("\n\n")
    question = paragraphs[0].replace("**", "") if paragraphs else ""
    return {"page": f"{path.stem}.html", "title": heading.splitlines()[0].lstrip("# "), "question": question}


def _section(file, heading):
    """A section of a Markdown file as HTML, with its heading; "" where there is none."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if f"{heading}\n" not in text:
        return ""
    return markdown2html(heading + text.split(heading, 1)[1].split("\n## ", 1)[0])


def _page(body, lang="en", **values):
    """A whole page; tables scroll by themselves, and a list of the sections, where there are some, follows the title."""
    soup = BeautifulSoup(body, "html.parser")
    for text in soup.find_all(string=FORMULA):
        if not text.find_parent(("code", "pre", "table")):
            text.replace_with(BeautifulSoup(FORMULA.sub(_formula, escape(text)), "html.parser"))
    for drawing in soup.select(".output_svg img"):  # nbconvert packs it up, and its text alternative with it
        content = base64.b64decode(drawing["src"].partition(",")[2])
        svg = BeautifulSoup(content, "html.parser").svg
        drawing["alt"] = svg.get("aria-label") or svg.title.get_text()
    for style in soup.select("style[scoped]"):  # how pandas wants its tables
        style.decompose()
    for table in soup.find_all("table"):
        _as_printed(table)
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    headings = soup.find_all("h2", id=True)
    if soup.h1 and len(headings) > 2:
        soup.h1.insert_after(BeautifulSoup(render("contents.html", headings=headings), "html.parser"))
    return with_style(str(soup), lang, **values)


def _as_printed(table):
    """pandas' table without its frame, the names of its index beside those of its columns, and headers that can wrap."""
    del table["border"]
    lines = [line.find_all("th") for line in table.select("thead tr")]
    if len(lines) == 2 and not any(above.text and below.text for above, below in zip(*lines, strict=True)):
        for above, below in zip(*lines, strict=True):
            above.string = above.text or below.text
        lines[1][0].parent.decompose()
    for name in table.find_all(string=re.compile("_")):
        name.replace_with(BeautifulSoup(escape(name).replace("_", "_<wbr>"), "html.parser"))


def with_style(body: str, lang: str = "en", **values) -> str:
    """A whole page in the site's style, with `body` as it is; values: its title, and the chapters before and after it."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "monokai"))
    return render("page.html", body=body, lang=lang, highlight=light, highlight_dark=dark, **values)


def _formula(match):
    """LaTeX as MathML, which browsers draw without a script."""
    formula = convert(unescape(match[1] or match[2]), display="block" if match[1] else "inline")
    return f'<span class="scroll formula" tabindex="0">{formula}</span>' if match[1] else formula


def render(name: str, **values) -> str:
    """A template of templates/ with these values."""
    return Environment(loader=FunctionLoader(template), autoescape=True).get_template(name).render(values)
