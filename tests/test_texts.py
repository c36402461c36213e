"""The numbers in the texts are those of the committed records."""

from pathlib import Path

from fgvc_lib.experiments.ablation import read_records
from fgvc_lib.experiments.summaries import summary
from fgvc_lib.report.claims import read_evidence
from fgvc_lib.report.results import results_pages
from fgvc_lib.report.tables import readable

ROOT = Path(__file__).parents[1]


def table(text, first):
    """The cells of the Markdown table whose header starts with a cell, without that header."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_results_and_verdicts():
    drawings = read_records(ROOT / "data" / "results" / "quick-CUB_40.parquet")
    for file, page in results_pages(read_evidence(), drawings).items():
        assert (ROOT / file).read_text(encoding="utf-8") == page, f"{file}: `make report` makes it anew"


def test_the_readme_s_accuracies():
    found = readable(summary(read_records(ROOT / "data" / "results" / "photos-CUB_40.parquet")), "summary")
    shown = table((ROOT / "README.md").read_text(encoding="utf-8"), "model")
    assert len(shown) == 10
    for name, *cells in shown:
        assert cells == found.loc[name].drop(["seeds", "calibration error"]).to_list(), name
