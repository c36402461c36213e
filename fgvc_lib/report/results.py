"""The pages of results, and the claims wherever they are shown."""

import re

import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined

from ..config import project_path
from ..experiments.ablation import made
from ..experiments.curve import areas
from ..experiments.summaries import controls, gradients, pretraining, selections, summary
from .claims import FAR, LITTLE, Evidence, claims
from .tables import markdown, readable
from .words import template

# Language: the page of results, and the page in which the verdicts stand between two marks.
PAGES = {"en": ("RESULTS.md", "README.md"), "zh-CN": ("RESULTS.zh-CN.md", "README.zh-CN.md")}


def claims_text(evidence: Evidence, lang: str = "en") -> str:
    """The claims of the course report in Markdown: the rule of the verdicts, the table, and what limits it."""
    return _render(f"claims.{lang}.md", lang, _values(evidence))


def results_pages(evidence: Evidence, drawings: pd.DataFrame) -> dict[str, str]:
    """The text of each file in PAGES: templates/results.LANG.md filled in, and the verdicts in the README anew.

    drawings: the records on photographs of models that were pre-trained on drawings, or not at all.
    """
    values = _values(evidence) | {"drawings": _about(drawings), "pretraining": pretraining(drawings)}
    values["birds"] |= _tables(evidence.birds) | {"gradients": gradients(evidence.birds)}
    for name, records in evidence.photographs.items():
        values["photographs"][name] |= _tables(records)
    for name, records in evidence.curves.items():
        (values["photographs"][name] if name else values["birds"])["areas"] = areas(records)
    pages = {}
    for lang, (results, readme) in PAGES.items():
        pages[results] = _render(f"results.{lang}.md", lang, values)
        verdicts = markdown(readable(values["claims"], "verdicts", lang))
        text = project_path(readme).read_text(encoding="utf-8")
        pages[readme] = re.sub("(?s)(<!-- claims -->\n).*?(\n<!-- end -->)", rf"\1\n{verdicts}\n\2", text)
    return pages


def _values(evidence):
    photographs = {name: _about(records) for name, records in evidence.photographs.items()}
    bounds = {"little": f"{100 * LITTLE:.0f}", "far": f"{100 * FAR:.0f}"}
    return bounds | {"claims": claims(evidence), "photographs": photographs, "birds": _about(evidence.birds)}


def _about(records):
    """How large a set of records is, and where it was made."""
    runs = pd.json_normalize([run["environment"] for run in made(records)])
    about = {name: ", ".join(sorted(set(runs[name].astype(str)))) for name in ("classes", "device", "threads")}
    about |= {"torch": ", ".join(sorted(set(runs["versions.torch"]))), "minutes": f"{runs['seconds'].sum() / 60:,.0f}"}
    return about | {"runs": len(runs), "seeds": records["seed"].nunique(), "images": f"{records['id'].nunique():,}"}


def _tables(records):
    return {"summary": summary(records), "controls": controls(records), "selections": selections(records)}


def _render(name, lang, values):
    page = Environment(
        loader=FunctionLoader(template), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    page.filters["table"] = lambda frame, kind: markdown(readable(frame, kind, lang))
    return page.get_template(name).render(values)
