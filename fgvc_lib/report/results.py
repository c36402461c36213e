"""The pages of results."""

from string import Template

import pandas as pd

from ..experiments.ablation import made
from ..experiments.statistics import summary
from ..experiments.variants import REFERENCE
from .claims import claims, controls, gradients, pretraining, selections
from .tables import markdown, readable
from .words import Words, template

# Language: the file in the project.
PAGES = {"en": "RESULTS.md", "zh-CN": "RESULTS.zh-CN.md"}


def results_pages(records: pd.DataFrame, photos: pd.DataFrame, cost: pd.DataFrame) -> dict[str, str]:
    """The text of each file in PAGES: templates/results.LANG.md filled in.

    records, photos: from `ablation.read_records`, on the built-in birds and on photographs. cost: see `claims`.
    """
    # A name is the table's kind, see `readable`; those of photographs have a prefix.
    tables = {"claims": claims(records, cost), "selections": selections(records), "gradients": gradients(records)}
    tables["photo_pretraining"] = pretraining(photos)
    facts = {}
    for prefix, frame in (("", records), ("photo_", photos)):
        whole, runs = summary(frame), pd.json_normalize([run["environment"] for run in made(frame)])
        tables |= {f"{prefix}summary": whole, f"{prefix}controls": controls(frame)}
        facts |= {
            f"{prefix}images": f"{whole['images'].max():,.0f}",
            f"{prefix}seeds": whole["seeds"].max(),
            f"{prefix}comparisons": len(whole) - 1,
            f"{prefix}runs": len(runs),
            f"{prefix}minutes": f"{runs['seconds'].sum() / 60:.0f}",
        }
        for fact in ("classes", "threads", "device", "versions.torch"):
            facts[prefix + fact.removeprefix("versions.")] = ", ".join(sorted(set(runs[fact].astype(str))))
    pages = {}
    for lang, file in PAGES.items():
        texts = {name: markdown(readable(table, name.removeprefix("photo_"), lang)) for name, table in tables.items()}
        texts["plain"] = Words(lang).write("title", REFERENCE)
        pages[file] = Template(template(f"results.{lang}.md")).substitute(facts, **texts)
    return pages
