import re
import tomllib
from string import Formatter

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.datasets.geometry import patch_boxes
from fgvc_lib.experiments.localisation import selection_hits
from fgvc_lib.experiments.statistics import difference
from fgvc_lib.report.claims import Comparison, Measured
from fgvc_lib.report.tables import LAYOUTS, compare, markdown, readable, results_table
from fgvc_lib.report.words import Words, template
from fgvc_lib.runs import Run

LANGUAGES = ("en", "zh-CN")


def run_of(folder, right):
    run = Run(folder)
    run.predictions = pd.DataFrame({"id": range(len(right)), "label": 1, "prediction": [int(r) for r in right]})
    run.environment = {"step_ms": 100.0, "seconds": 60.0, "parameters": 2_000_000}
    return run


@pytest.fixture
def runs(tmp_path):
    rights = {"vit": 12, "psm_mul": 20, "psm_add": 19, "mine": 12}
    return {key: run_of(tmp_path / key, [place < right for place in range(20)]) for key, right in rights.items()}


def test_one_row_per_run(runs):
    table = results_table(runs)
    assert table["accuracy"].tolist() == [0.6, 1.0, 0.95, 0.6] and set(table["images"]) == {20}
    assert (table["low"] < table["accuracy"]).all() and "difference" not in table
    text = readable(table)
    assert text.index.tolist() == ["ViT", "PSM mul", "PSM add", "mine"]  # titles; an unknown key as it is
    assert text.loc["ViT", "test accuracy"] == "60.0%" and "difference" not in text


def test_rows_are_set_beside_a_reference(runs):
    table = results_table(runs, reference="vit")
    columns = ["difference", "difference_low", "difference_high"]
    assert tuple(table.loc["psm_mul", columns]) == difference(runs["psm_mul"], runs["vit"])
    text = readable(table)["difference"]
    assert text["ViT"] == "–" and text["mine"] == "+0.0 points (+0.0 to +0.0)"
    assert text["PSM mul"] == compare(runs["psm_mul"], runs["vit"])
    assert re.fullmatch(r"\+40\.0 points \(\+\d\d\.0 to \+\d\d\.0\)", text["PSM mul"])
    assert compare(runs["vit"], runs["psm_mul"]).startswith("-40.0 points (-")


def test_a_table_in_markdown():
    table = pd.DataFrame({"accuracy": [0.5, 0.25]}, index=["psm_mul", "vit_overlap"])
    assert markdown(readable(table, "summary")).splitlines() == [
        "| model | test accuracy |", "| --- | --- |", "| PSM mul | 50.0% |", "| ViT, overlap | 25.0% |",
    ]  # fmt: skip


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_columns_of_a_table_have_headers_of_their_own(kind, lang):
    headers = [Words(lang).text["columns"][column].strip() for column in LAYOUTS[kind]]
    assert len(set(headers)) == len(headers)
    assert {style for style, *_ in LAYOUTS[kind].values()} <= Words(lang).text["formats"].keys()


def test_means_of_localise_are_readable():
    columns = ["map_peak", *(f"map_{of}{end}" for of in ("box", "part", "discriminative") for end in ("", "_chance"))]
    text = readable(pd.DataFrame(0.25, index=["Grad-CAM"], columns=columns), "maps")
    assert text.loc["Grad-CAM"].tolist() == ["25.0%"] * 7


def test_every_mean_of_selection_hits_has_words():
    patches, boxes, points = patch_boxes(range(4), 2, 16, 16), np.array([[0.0, 0, 16, 16]]), np.array([[[4.0, 4.0]]])
    means = selection_hits(np.array([[0]]), patches, boxes, points).mean()
    text = readable(pd.DataFrame({"mul": means, "random": 0 * means}).T, "hits")
    assert len(text.columns) == len(means) and not any("_" in header for header in text.columns)
    assert set(text.loc["random"]) == {"0.0%"} and text.loc["mul", "images with a part hit"] == "100.0%"


def placeholders(text):
    return sorted((field, spec) for _, field, spec, _ in Formatter().parse(text) if field)


def test_the_languages_say_the_same():
    english, chinese = (tomllib.loads(template(f"words.{lang}.toml")) for lang in LANGUAGES)
    assert english.keys() == chinese.keys()
    for section in ("site", "formats", "columns", "verdict", "level", "why", "claim", "said"):
        assert english[section].keys() == chinese[section].keys()
    for style, text in english["formats"].items():
        assert placeholders(text) == placeholders(chinese["formats"][style]), style


def test_chinese_brackets_take_no_space():
    measured = Measured(Comparison("vit_overlap", "resnet18"), -0.298, -0.343, -0.251, 0.0002)
    text = Words("zh-CN").write("difference", measured)
    assert text == "ViT（重叠）相对 ResNet-18：-29.8 个百分点（-34.3 至 -25.1），p < 0.001"
    assert Words().write("difference", measured).endswith("-29.8 points (-34.3 to -25.1), p < 0.001")
    assert Words().write("limit", Measured(measured.asked, 0, 0, 0, 0.0126)) == "p = 0.013 against 0 points"
