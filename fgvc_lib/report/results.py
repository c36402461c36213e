"""The pages of results."""

from string import Template

import pandas as pd

from ..experiments.ablation import made
from ..experiments.statistics import summary
from ..experiments.variants import REFERENCE
from .claims import claims, controls, gradients, pretraining, selections
from .tables import markdown, readable
from .words import template, words_in

# Language: the file in the project.
PAGES = {"en": "RESULTS.md", "zh-CN": "RESULTS.zh-CN.md"}


def results_pages(records: pd.DataFrame, photos: pd.DataFrame, cost: pd.DataFrame) -> dict[str, str]:
    """The text of each file in PAGES: templates/results.LANG.md filled in.

    records, photos: from `ablation.read_records`, on the built-in birds and on photographs. cost: see `claims`.
    """
    whole, of_photos = summary(records, REFERENCE), summary(photos, REFERENCE)
    tables = {
        "claims": (claims(records, cost), "claims"), "controls": (controls(records), "controls"),
        "ablation": (whole, "summary"), "selections": (selections(records), "selections"),
        "gradients": (gradients(records), "gradients"), "photos": (of_photos, "summary"),
        "photo_controls": (controls(photos), "controls"), "pretraining": (pretraining(photos), "pretraining"),
    }  # fmt: skip
    environments = [run["environment"] for run in made(records)]
    facts = {
        "classes": _all_of(environments, "classes"), "images": f"{whole['images'].max():,.0f}",
        "seeds": int(whole["seeds"].max()), "comparisons": len(whole) - 1, "runs": len(environments),
        "minutes": f"{sum(one['seconds'] for one in environments) / 60:.0f}",
        "threads": _all_of(environments, "threads"), "device": _all_of(environments, "device"),
        "torch": _all_of([one["versions"] for one in environments], "torch"),
        "photo_classes": made(photos)[0]["environment"]["classes"],
        "photo_images": f"{of_photos['images'].max():,.0f}", "photo_seeds": int(of_photos["seeds"].max()),
    }  # fmt: skip
    pages = {}
    for lang, file in PAGES.items():
        texts = {name: markdown(readable(table, kind, lang)) for name, (table, kind) in tables.items()}
        pages[file] = Template(template(f"results.{lang}.md")).substitute(
            facts, plain=words_in(lang).title(REFERENCE), **texts
        )
    return pages


def _all_of(environments, fact):
    """The values of a fact, each once."""
    return ", ".join(sorted({str(one[fact]) for one in environments}))
