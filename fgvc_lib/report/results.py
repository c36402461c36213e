"""The page of results."""

from string import Template

import pandas as pd

from ..experiments.ablation import made
from ..experiments.statistics import summary
from ..experiments.variants import REFERENCE
from .claims import claims, controls, gradients, pretraining, selections
from .tables import markdown, readable
from .words import template, words_in


def results_page(records: pd.DataFrame, photos: pd.DataFrame, cost: pd.DataFrame, lang: str = "en") -> str:
    """RESULTS.md (`lang` "en") or RESULTS.zh-CN.md ("zh-CN"): templates/results.LANG.md filled in.

    records, photos: from `ablation.read_records`, on the built-in birds and on photographs. cost: see `claims`.
    """
    whole, of_photos = summary(records, REFERENCE), summary(photos, REFERENCE)
    tables = {
        "claims": readable(claims(records, cost), "claims", lang),
        "ablation": readable(whole, "summary", lang),
        "controls": readable(controls(records), "controls", lang),
        "selections": readable(selections(records), "selections", lang),
        "gradients": readable(gradients(records), "gradients", lang),
        "photos": readable(of_photos, "summary", lang),
        "photo_controls": readable(controls(photos), "controls", lang),
        "pretraining": readable(pretraining(photos), "pretraining", lang),
    }
    environments = [run["environment"] for run in made(records)]
    facts = {
        "plain": words_in(lang).title(REFERENCE),
        "classes": _all_of(environments, "classes"), "images": f"{whole['images'].max():,.0f}",
        "seeds": int(whole["seeds"].max()), "comparisons": len(whole) - 1, "runs": len(environments),
        "minutes": f"{sum(one['seconds'] for one in environments) / 60:.0f}",
        "threads": _all_of(environments, "threads"), "device": _all_of(environments, "device"),
        "torch": _all_of([one["versions"] for one in environments], "torch"),
        "photo_classes": made(photos)[0]["environment"]["classes"],
        "photo_images": f"{of_photos['images'].max():,.0f}", "photo_seeds": int(of_photos["seeds"].max()),
    }  # fmt: skip
    page = Template(template(f"results.{lang}.md"))
    return page.substitute(facts, **{name: markdown(table) for name, table in tables.items()})


def _all_of(environments, fact):
    """The values of a fact, each once."""
    return ", ".join(sorted({str(one[fact]) for one in environments}))
