"""The page of results."""

import json
import re
from pathlib import Path
from string import Template

import pandas as pd

from ..experiments.ablation import made
from ..experiments.statistics import summary
from .claims import PLAIN, claims, controls, gradients, pretraining, selections
from .tables import markdown, readable_summary


def results_page(records: pd.DataFrame, photos: pd.DataFrame, cost: pd.DataFrame, lang: str = "en") -> str:
    """RESULTS.md (`lang` "en") or RESULTS.zh-CN.md ("zh-CN"): results.LANG.md beside this file, filled in from records."""
    runs, table, photo_table = made(records), summary(records, PLAIN), summary(photos, PLAIN)
    translate = chinese if lang == "zh-CN" else str
    about = {
        key: ", ".join(sorted({str(entry["environment"][key]) for entry in runs}))
        for key in ("threads", "device", "classes")
    }
    tables = {
        "claims": claims(records, cost), "ablation": readable_summary(table), "selections": selections(records),
        "gradients": gradients(records), "controls": controls(records), "photos": readable_summary(photo_table),
        "photo_controls": controls(photos), "pretraining": pretraining(photos),
    }  # fmt: skip
    facts = {
        "plain": translate(PLAIN), "classes": about["classes"], "images": f"{table['images'].max():,.0f}",
        "seeds": int(table["seeds"].max()), "comparisons": len(table) - 1, "runs": len(runs),
        "minutes": f"{sum(entry['environment']['seconds'] for entry in runs) / 60:.0f}", "threads": about["threads"],
        "device": about["device"], "torch": ", ".join(sorted({entry["environment"]["versions"]["torch"] for entry in runs})),
        "photo_classes": made(photos)[0]["environment"]["classes"],
        "photo_images": f"{photo_table['images'].max():,.0f}", "photo_seeds": int(photo_table["seeds"].max()),
    }  # fmt: skip
    template = Template(Path(__file__).with_name(f"results.{lang}.md").read_text(encoding="utf-8"))
    return template.substitute(facts, **{name: translate(markdown(one)) for name, one in tables.items()})


def chinese(table: str) -> str:
    """A table of this page with the field's Chinese terms, longest first; models and fusion rules keep their names."""
    terms = json.loads(Path(__file__).with_name("results.zh-CN.json").read_text(encoding="utf-8"))
    for words in sorted(terms, key=len, reverse=True):
        table = table.replace(words, terms[words])
    return re.sub(r"(?<=[点%倍]) \(([^)]*)\)", r"（\1）", table)
