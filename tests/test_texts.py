"""The numbers in the texts are those of the committed records."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fgvc_lib.experiments.ablation import read_records
from fgvc_lib.experiments.statistics import summary
from fgvc_lib.experiments.variants import REFERENCE, title_of
from fgvc_lib.report.results import PAGES, results_pages
from fgvc_lib.report.tables import readable
from fgvc_lib.report.words import Words

ROOT = Path(__file__).parents[1]


def table(text, first):
    """The cells of the Markdown table whose header starts with a cell, without that header."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


@pytest.fixture(scope="module")
def records():
    return read_records(ROOT / "data" / "results" / "quick.parquet")


def test_results_and_claims(records):
    photos = read_records(ROOT / "data" / "results" / "quick-CUB_40.parquet")
    cost = pd.DataFrame(json.loads((ROOT / "data" / "bench" / "step.json").read_text())["rows"])
    pages = results_pages(records, photos, cost)
    for lang, file in PAGES.items():
        assert (ROOT / file).read_text(encoding="utf-8") == pages[file]
        readme = (ROOT / file.replace("RESULTS", "README")).read_text(encoding="utf-8")
        claim = Words(lang).text["columns"]["claim"]
        assert table(readme, claim) == table(pages[file], claim)


def test_the_readme_s_accuracies(records):
    found = readable(summary(records, REFERENCE), "summary")
    shown = table((ROOT / "README.md").read_text(encoding="utf-8"), "model")
    assert len(shown) == 10
    for name, *cells in shown:
        wanted = found.loc[name].drop(["seeds", "calibration error"]).to_list()
        assert cells == (wanted[:2] + ["–"] * 4 if name == title_of(REFERENCE) else wanted), name
