"""The pages of results, and the table of models on the front pages."""

import re
from typing import Literal

import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined

from ..config import project_path
from ..experiments.ablation import made, read_records
from ..experiments.curve import areas
from ..experiments.summaries import controls, gradients, pretraining, selections, summary
from ..experiments.variants import REFERENCE
from .claims import FAR, LITTLE, Evidence, claims, read_evidence
from .tables import markdown, readable
from .words import template

# Language: the page of results, and the front page, in which a table of models stands between two marks.
PAGES = {"en": ("RESULTS.md", "README.md"), "zh-CN": ("RESULTS.zh-CN.md", "README.zh-CN.md")}
FRONT = (
    "resnet18", "efficientnet_lite0", "vit", REFERENCE, "vit_overlap_larger_image", "psm_lastlayer", "psm_mul",
    "psm_mul_top8", "psm_mul_contrastive", "psm_random",
)  # fmt: skip


def print_claims(lang: Literal["en", "zh-CN"] = "en") -> str:
    """What was measured on each claim of the course report, and the verdict, from the records in data/.

    Args:
        lang: English or Chinese.
    """
    table, colon = readable(claims(read_evidence()), "claims", lang), "：" if lang == "zh-CN" else ": "
    return "\n\n".join(
        "\n  ".join([claim, *(f"{column}{colon}{cell}" for column, cell in row.items())]) for claim, row in table.iterrows()
    )


def claims_text(evidence: Evidence, lang: str = "en") -> str:
    """The claims of the course report in Markdown: the verdicts, their rule, what was measured, and what limits it."""
    return _render(f"claims.{lang}.md", lang, _values(evidence))


def results_pages(evidence: Evidence, drawings: pd.DataFrame) -> dict[str, str]:
    """The text of each file in PAGES: templates/results.LANG.md filled in, and the front page with its table made anew.

    drawings: the records on photographs of models that were pre-trained on built-in birds, or not at all.
    """
    values = _values(evidence) | {"drawings": _about(drawings), "pretraining": pretraining(drawings)}
    values["birds"] |= _tables(evidence.birds) | {"gradients": gradients(evidence.birds)}
    values["cost"] = evidence.cost and _cost(evidence.cost)
    for name, records in evidence.photographs.items():
        values["photographs"][name] |= _tables(records)
    for name, records in evidence.curves.items():
        (values["photographs"][name] if name else values["birds"])["areas"] = areas(records)
    pages = {}
    for lang, (results, front) in PAGES.items():
        pages[results] = _render(f"results.{lang}.md", lang, values)
        tables = [markdown(readable(front_table(records), "front", lang)) for records in evidence.photographs.values()]
        text, table = project_path(front).read_text(encoding="utf-8"), "\n\n".join(tables)
        pages[front] = re.sub("(?s)(<!-- models -->\n).*?(\n<!-- end -->)", rf"\1\n{table}\n\2", text)
    return pages


def front_table(records: pd.DataFrame) -> pd.DataFrame:
    """The `summary` of the models in FRONT that were recorded, with the columns parameters (millions) and weights (the
    option that they were trained with)."""
    runs = {run["variant"]: run for run in made(records)}
    table = summary(records)
    table = table.loc[[key for key in FRONT if key in table.index]]
    parameters = [runs[key]["environment"]["parameters"] / 1e6 for key in table.index]
    return table.assign(parameters=parameters, weights=[runs[key]["experiment"]["weights"] for key in table.index])


def recorded_pages() -> dict[str, str]:
    """`results_pages` of the records in data/. Raises DataError for a file that is missing or cannot be read."""
    return results_pages(read_evidence(), read_records(project_path("data/results/quick-CUB_40.parquet")))


def _values(evidence):
    photographs = {name: _about(records) for name, records in evidence.photographs.items()}
    fixed = {"little": f"{100 * LITTLE:.0f}", "far": f"{100 * FAR:.0f}", "device": evidence.bench["environment"]["device"]}
    gpu = [_cost(record) for record in evidence.gpu]
    return fixed | {"claims": claims(evidence), "photographs": photographs, "birds": _about(evidence.birds), "gpu": gpu}


def _about(records):
    """How large a set of records is, and where it was made."""
    runs = pd.json_normalize([run["environment"] for run in made(records)])
    about = {name: ", ".join(sorted(set(runs[name].astype(str)))) for name in ("classes", "device", "threads")}
    about |= {"torch": ", ".join(sorted(set(runs["versions.torch"]))), "minutes": f"{runs['seconds'].sum() / 60:,.0f}"}
    return about | {"runs": len(runs), "seeds": records["seed"].nunique(), "images": f"{records['id'].nunique():,}"}


def _tables(records):
    return {"summary": summary(records), "controls": controls(records), "selections": selections(records)}


def _cost(record):
    return record | {"rows": pd.DataFrame(record["rows"])}


def _render(name, lang, values):
    page = Environment(
        loader=FunctionLoader(template), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    page.filters["table"] = lambda frame, kind: markdown(readable(frame, kind, lang))
    return page.get_template(name).render(values)
