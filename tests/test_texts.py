"""What the texts say holds: their numbers are those of the committed records, their links and commands exist."""

import dataclasses
import re
from pathlib import Path

import pytest

from fgvc_lib.cli import COMMANDS
from fgvc_lib.config import Experiment
from fgvc_lib.experiments.ablation import read_records
from fgvc_lib.experiments.summaries import selections
from fgvc_lib.report.claims import claims, read_evidence
from fgvc_lib.report.results import PAGES, results_pages

ROOT = Path(__file__).parents[1]
FILES = sorted(path for pattern in ("*.md", "docs/*.md", "data/*.md") for path in ROOT.glob(pattern))
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in FILES}
FRONT = {  # their own words, on one line
    lang: " ".join(re.sub("(?s)<!-- models -->.*<!-- end -->", "", TEXTS[page]).split()) for lang, (_, page) in PAGES.items()
}


@pytest.fixture(scope="module")
def evidence():
    return read_evidence()


def test_results_and_the_table_of_models(evidence):
    drawings = read_records(ROOT / "data" / "results" / "quick-CUB_40.parquet")
    for file, page in results_pages(evidence, drawings).items():
        assert TEXTS[file] == page, f"{file}: `make publish` makes it anew"


def test_the_front_pages_are_short():
    for _, page in PAGES.values():
        assert len(TEXTS[page].splitlines()) <= 120
        assert 3 < sum(line.startswith("|") for line in TEXTS[page].splitlines()) <= 2 + 10


@pytest.mark.parametrize(
    ("text", "results"),
    [(FRONT["en"], "RESULTS.md"), (FRONT["zh-CN"], "RESULTS.zh-CN.md"), (TEXTS["docs/library.md"], "RESULTS.md")],
    ids=["en", "zh-CN", "library"],
)
def test_numbers_with_decimals_are_those_of_a_table(text, results, evidence):
    cells = "\n".join(line for line in TEXTS[results].splitlines() if line.startswith("|"))
    number = re.compile(r"[+-]?\d+\.\d+|[\d,]+(?= MB)|(?<=\| )[\d,]+(?= \|)")
    (classes,) = {place[1] for place in claims(evidence).loc["vit_is_better", "photographs"]}
    other = {f"{100 / classes:.1f}", "3.11", "3.12", "3.13", "0.9"}  # guessing, Python, and the momentum
    found = set(number.findall(text)) - other
    assert len(found) >= 6 and found <= set(number.findall(cells))


def test_hits_of_the_discriminative_parts_on_the_front_pages(evidence):
    table = (100 * selections(evidence.birds)[[f"selected_part{end}" for end in ("", "_chance", "_chance_on_bird")]]).round()
    hits, chance, on_bird = (column.astype(int).rename(lambda key: key.removeprefix("psm_")) for _, column in table.items())
    best, told = hits[["add", "lastlayer", "lowrank"]], ["add", "lastlayer", "lowrank", "mul", "matmul"]
    on_bird, chance = (values[told].agg(["min", "max"]).tolist() for values in (on_bird, chance))
    wanted = [best.min(), best.max(), hits["mul"], hits["matmul"]]
    several = r"in (\d+) to (\d+)%"
    pattern = rf"{several} of the images.*?in (\d+)%.*?in (\d+)%.*?{several}.*?{several}.*?in (\d+)%"
    shown = re.search(pattern, FRONT["en"])
    assert [int(number) for number in shown.groups()] == [*wanted, *on_bird, *chance, hits["rollout"]]
    pattern = r"在 (\d+)% 至 (\d+)% 的图像.*?为 (\d+)%.*?为 (\d+)%；.*?为 (\d+)% 至 (\d+)%.*?为 (\d+)% 至 (\d+)%.*?有 (\d+)%"
    shown = re.search(pattern, FRONT["zh-CN"])
    assert [int(number) for number in shown.groups()] == [*wanted, *chance, *on_bird, hits["rollout"]]


def test_the_verdicts_are_counted(evidence):
    table = claims(evidence)
    count = table["verdict"].value_counts().reindex(["confirmed", "contradicted", "cannot_tell", "not_tested"]).tolist()
    count = [len(table), *count, (table["level"] == "photographs").sum()]
    pattern = r"into (\d+) that .*?: (\d+) confirmed, (\d+) contradicted, (\d+) that .*?, (\d+) not tested. (\d+) of"
    shown = re.search(pattern, FRONT["en"])
    assert [int(number) for number in shown.groups()] == count
    pattern = r"拆成 (\d+) 条.*?：(\d+) 条成立，(\d+) 条不成立，(\d+) 条无法判断，(\d+) 条未检验；其中 (\d+) 条"
    shown = re.search(pattern, FRONT["zh-CN"])
    assert [int(number) for number in shown.groups()] == count


def anchors(text):
    """The anchors that GitHub gives to the headings of a text."""
    headings = re.findall("(?m)^#+ (.*)$", re.sub("(?s)```.*?```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", TEXTS)
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[file]):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            to = (ROOT / file).parent / path if path else ROOT / file
            assert to.exists(), target
            assert not anchor or anchor in anchors(to.read_text("utf-8")), target


@pytest.mark.parametrize("file", TEXTS)
def test_commands_and_their_options_exist(file):
    targets = set(re.findall("(?m)^([a-z]+):", (ROOT / "Makefile").read_text("utf-8")))
    assert set(re.findall("(?m)(?:`|^    )make ([a-z]+)", TEXTS[file])) <= targets
    for command, options in re.findall(r"-m fgvc_lib ([a-z]+(?: list| download| check)?)([^\n`#]*)", TEXTS[file]):
        assert command in COMMANDS, command
        if command == "train":
            known = {field.name for field in dataclasses.fields(Experiment)} | {"help"}
            assert {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", options)} <= known
