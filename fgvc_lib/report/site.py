"""The executed notebooks and the results as one site of plain pages, which need no network to be read."""

import copy
import datetime
import html
from functools import cache
from pathlib import Path
from string import Template

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from ..config import Experiment, project_path
from ..files import write_whole

TITLES = {"en": "Telling apart birds that differ in an eye-ring", "zh-CN": "如何分辨只差一个眼圈的鸟"}
WIDGET = "application/vnd.jupyter.widget-view+json"
# Pages of text beside the chapters: file in the project, page, language, its name in the index.
TEXTS = (("RESULTS.md", "results.html", "en", "Results"), ("RESULTS.zh-CN.md", "results.zh-CN.html", "zh-CN", "结果"))


def write_site(folder: Path, notebooks: dict[Path, nbformat.NotebookNode], experiment: Experiment, texts: bool) -> Path:
    """Write a page a notebook, the pages of results if `texts`, and index.html into `folder`; return the index."""
    chapters = [(f"{path.stem}.html", title_of(notebook)) for path, notebook in notebooks.items()]
    exporter = HTMLExporter(template_name="basic", embed_images=True)
    for place, notebook in enumerate(notebooks.values()):
        body, _ = exporter.from_notebook_node(_on_paper(notebook))
        near = [(chapters[i] if 0 <= i < len(chapters) else None) for i in (place - 1, place + 1)]
        write_whole(folder / chapters[place][0], _page(chapters[place][1], _readable(body), near))
    pages = [entry for entry in TEXTS if texts and project_path(entry[0]).is_file()]
    for file, page, lang, name in pages:
        write_whole(folder / page, _page(f"{name}: {TITLES[lang]}", _markdown(project_path(file).read_text()), lang=lang))
    write_whole(folder / "index.html", _index(notebooks, chapters, pages, experiment))
    return folder / "index.html"


def _on_paper(notebook):
    """A copy of a notebook without the widgets, which need a kernel behind them."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if WIDGET not in one.get("data", {})]
    return notebook


def title_of(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def _question(notebook):
    """The first paragraph below the title: the question that the notebook answers."""
    paragraphs = notebook.cells[0].source.split("\n\n")
    return paragraphs[1].replace("**", "") if len(paragraphs) > 1 else ""


def _index(notebooks, chapters, pages, experiment):
    items = "\n".join(
        f'<li><a href="{page}">{html.escape(title)}</a><p>{html.escape(_question(notebook))}</p></li>'
        for (page, title), notebook in zip(chapters, notebooks.values(), strict=True)
    )
    links = "".join(f'<li><a href="{page}" lang="{lang}">{name}</a></li>' for _, page, lang, name in pages)
    data = Path(experiment.data).name if experiment.data else "the built-in birds"
    abstract = _section(project_path("README.md"), "## Abstract")
    chinese = _section(project_path("README.zh-CN.md"), "## 摘要")
    claims = _section(project_path("RESULTS.md"), "## The claims of the course report") if pages else ""
    body = f"""<h1>{TITLES["en"]}</h1>
{abstract}
<p>Profile <b>{experiment.profile}</b>, on {html.escape(data)}, {datetime.date.today():%d %B %Y}.</p>
<h2>Chapters</h2>
<ol class="chapters">
{items}
</ol>
<ul>{links}</ul>
{claims}
{f'<div lang="zh-CN">{chinese}</div>' if chinese else ""}"""
    return _page(TITLES["en"], _readable(body))


def _section(file, heading):
    """A section of a Markdown file as HTML, with its heading; "" where there is none."""
    text = file.read_text() if file.is_file() else ""
    if f"{heading}\n" not in text:
        return ""
    return markdown2html(heading + text.split(heading, 1)[1].split("\n## ", 1)[0])


def _markdown(text):
    for file, page, *_ in TEXTS:
        text = text.replace(f"]({file})", f"]({page})")
    return _readable(markdown2html(text))


def _readable(body):
    """Tables that scroll by themselves, and a table of contents below the title where there are sections."""
    soup = BeautifulSoup(body, "html.parser")
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    headings, title = soup.find_all("h2"), soup.find("h1")
    if len(headings) > 2 and title:
        entries = "".join(f'<li><a href="#{_name(heading)}">{_text(heading)}</a></li>' for heading in headings)
        contents = BeautifulSoup(f'<nav class="toc" aria-label="on this page"><ul>{entries}</ul></nav>', "html.parser")
        title.insert_after(contents)
    return str(soup)


def _name(heading):
    heading["id"] = heading.get("id") or _text(heading).replace(" ", "-")
    return html.escape(heading["id"])


def _text(heading):
    return html.escape(heading.get_text().rstrip("¶"))


def _page(title, body, near=(None, None), lang="en"):
    before, after = near
    way = f'<a href="index.html">{"目录" if lang == "zh-CN" else "Contents"}</a>'
    way += f'<a href="{before[0]}" rel="prev">← {html.escape(before[1])}</a>' if before else ""
    way += f'<a href="{after[0]}" rel="next">{html.escape(after[1])} →</a>' if after else ""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "monokai"))
    parts = {"title": html.escape(title), "lang": lang, "way": way, "body": body, "highlight": light, "highlight_dark": dark}
    return _template().substitute(parts, footer=way if after else "")


@cache
def _template():
    return Template(Path(__file__).with_name("page.html").read_text())
