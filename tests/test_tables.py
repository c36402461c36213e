import math
import re
import tomllib
from string import Formatter

import pandas as pd
import pytest

from fgvc_lib.experiments.statistics import holm
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
    assert table["p"].isna().all() and (table["low"] < table["accuracy"]).all()
    text = readable(table)
    assert text.index.tolist() == ["ViT", "PSM mul", "PSM add", "mine"]  # titles; an unknown key as it is
    assert text.loc["ViT", "test accuracy"] == "60.0%" and text.loc["mine", "p (McNemar, Holm)"] == "–"


def test_p_values_of_several_rows_are_corrected(runs):
    alone = {"psm_mul": 2 / 2**8, "psm_add": 2 / 2**7, "mine": 1.0}  # McNemar: 8, 7 and 0 images that one alone gets right
    p = results_table(runs, reference="vit")["p"]
    assert math.isnan(p["vit"])
    assert p.drop("vit").to_dict() == pytest.approx(holm(pd.Series(alone)).to_dict())
    assert p["psm_mul"] == pytest.approx(3 * alone["psm_mul"])


def test_a_pair_is_compared_alone(runs):
    assert compare(runs["psm_mul"], runs["vit"]) == "+40.0 points, p = 0.008: better"
    assert compare(runs["vit"], runs["psm_mul"]) == "-40.0 points, p = 0.008: worse"
    assert compare(runs["vit"], runs["mine"]) == "+0.0 points, p = 1.000: not distinguishable"


def test_small_p_values_and_the_reference_in_a_summary():
    rows = {
        "psm_mul": {"difference": 0.1, "p": 0.0004},
        "vit": {"difference": -0.1, "p": 0.01},
        "vit_overlap": {"difference": 0},
    }
    table = pd.DataFrame.from_dict(rows, orient="index").assign(accuracy=0.5, low=0.4, high=0.6, seeds=5, ece=0.1)
    table = table.assign(difference_low=-0.1, difference_high=0.1)
    text = readable(table, "summary")
    assert text["p (Holm)"].tolist() == ["< 0.001", "0.010", "–"]
    assert text["verdict"].tolist() == ["better", "worse", "–"]
    assert readable(table, "summary", "zh-CN")["判断"].tolist() == ["更好", "更差", "–"]
    assert markdown(text[["verdict"]]).splitlines() == [
        "| model | verdict |", "| --- | --- |", "| PSM mul | better |", "| ViT | worse |", "| ViT, overlap | – |",
    ]  # fmt: skip


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_columns_of_a_table_have_headers_of_their_own(kind, lang):
    headers = [Words(lang).text["columns"][column].strip() for column in LAYOUTS[kind]]
    assert len(set(headers)) == len(headers)
    styles = {style for style, *_ in LAYOUTS[kind].values()} - {"measured", "comparison"}
    assert styles <= Words(lang).text["formats"].keys()


def test_means_of_localise_are_readable():
    columns = ["map_peak", *(f"map_{of}{end}" for of in ("box", "part", "discriminative") for end in ("", "_chance"))]
    text = readable(pd.DataFrame(0.25, index=["Grad-CAM"], columns=columns), "maps")
    assert text.loc["Grad-CAM"].tolist() == ["25.0%"] * 7


def placeholders(text):
    return sorted((field, spec) for _, field, spec, _ in Formatter().parse(text) if field)


def test_the_languages_say_the_same():
    english, chinese = (tomllib.loads(template(f"words.{lang}.toml")) for lang in LANGUAGES)
    assert english.keys() == chinese.keys()
    for section in ("site", "formats", "columns", "verdict", "claim", "said"):
        assert english[section].keys() == chinese[section].keys()
    for style, text in english["formats"].items():
        assert placeholders(text) == placeholders(chinese["formats"][style]), style


def test_chinese_brackets_take_no_space():
    text = Words("zh-CN").write("difference", -0.298, -0.343, -0.251, "vit_overlap", "resnet18")
    assert text == "ViT（重叠）相对 ResNet-18：-29.8 个百分点（-34.3 至 -25.1）"
    assert not re.search(r"[()]", text)
