import json
import re

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.config import PROFILES
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.variants import REFERENCE, ablation_variants, photo_variants
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.report.claims import claims, controls, gradients, pretraining, selections
from fgvc_lib.report.results import PAGES, results_pages
from fgvc_lib.report.tables import markdown, readable

SEEDS, IMAGES = 5, 300


def records(rates, hits=True):
    """Records as `ablation.collect` makes them, each variant right at a given rate, the same images hard for all."""
    rng, frames = np.random.default_rng(0), []
    hard = rng.random(IMAGES)
    for key, rate in rates.items():
        for seed in range(SEEDS):
            right = hard + rng.normal(0, 0.1, IMAGES) < rate
            frame = pd.DataFrame({"variant": key, "seed": seed, "id": range(IMAGES), "label": 1, "probability": 0.7})
            frame["prediction"] = right.astype(int)
            frame["map_peak"], frame["map_box"], frame["map_box_chance"] = True, 0.6, 0.4
            frame["map_part"], frame["map_part_chance"] = 0.3, 0.2
            frame["map_discriminative"], frame["map_discriminative_chance"] = 0.1 + 0.1 * rng.random(IMAGES), 0.1
            if hits:
                select = "psm" in key
                frame["selected_bird"] = frame["selected_bird_chance"] = 0.5 if select else np.nan
                hit = np.where(rng.random(IMAGES) < 0.2, np.nan, (right ^ (rng.random(IMAGES) < 0.2)).astype(float))
                frame["selected_part"], frame["selected_part_chance"] = (hit, 0.2) if select else (np.nan, np.nan)
            frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    about = {"seconds": 60, "threads": 2, "device": "cpu", "classes": 12, "versions": {"torch": "2"}}
    runs = [{"variant": key, "seed": 0, "experiment": {}, "environment": about} for key in rates]
    table.attrs = {"schema": 4, "runs": json.dumps(runs)}
    return table


RATES = dict.fromkeys(ablation_variants(PROFILES["quick"]), 0.6)
PHOTO_RATES = {key: 0.4 if key.endswith("_scratch") else 0.7 for key in photo_variants(PROFILES["quick"])}
COST = pd.DataFrame({"row": ["plain", "mul"], "train_ratio": [1, 0.93], "train_low": [1, 0.9], "train_high": [1, 0.96]})


@pytest.fixture(scope="module")
def found():
    return records(RATES | {"resnet18": 0.3, "psm_mul": 0.8, "psm_mul_contrastive": 0.5, "psm_add": 0.79})


@pytest.fixture(scope="module")
def photos():
    return records(PHOTO_RATES)


@pytest.fixture(scope="module")
def pages(found, photos):
    return results_pages(found, photos, COST)


def test_verdicts_follow_the_intervals(found):
    verdict = claims(found, COST)["verdict"]
    assert verdict["vit_beats_cnn"] == verdict["selection_helps"] == "confirmed"
    assert verdict["contrastive_hurts"] == verdict["selection_is_faster"] == "confirmed"
    assert verdict["overlap_helps"] == verdict["mul_is_best"] == "cannot_tell"
    assert verdict["cnn_misses_details"] == "contradicted"
    assert verdict["cnn_below_70"] == "by_design"


def test_verdicts_the_other_way():
    low = records(RATES | {"psm_mul": 0.4, REFERENCE: 0.3})
    verdict = claims(low, COST.assign(train_low=1.1, train_high=1.2))["verdict"]
    assert verdict["vit_beats_cnn"] == verdict["mul_is_best"] == "contradicted"
    assert verdict["contrastive_hurts"] == verdict["selection_is_faster"] == "contradicted"
    assert verdict["selection_helps"] == "confirmed"


def test_what_was_measured_is_numbers(found):
    ((style, difference, low, high, one, other),) = claims(found, COST).loc["vit_beats_cnn", "measured"]
    assert (style, one, other) == ("difference", REFERENCE, "resnet18") and -1 < low < difference < high < 1
    assert all(kind == "f" for kind in gradients(found).dtypes.map(lambda dtype: dtype.kind))
    assert all(kind == "f" for kind in selections(found).dtypes.map(lambda dtype: dtype.kind))


def test_each_variant_is_held_against_what_it_changes(found):
    table = controls(found)
    grid = ablation_variants(PROFILES["quick"])
    assert table["against"].to_dict() == {key: variant.against for key, variant in grid.items() if variant.against}
    assert table.loc["psm_mul", "verdict"] == "better" and table.loc["psm_mul", "against"] == "psm_random"
    assert table.loc["psm_mul_larger_image", "verdict"] == "not_distinguishable"


def test_a_control_and_the_claim_about_it_have_the_same_numbers(found):
    control = controls(found).loc["psm_mul_contrastive", ["difference", "low", "high"]]
    (measured,) = claims(found, COST).loc["contrastive_hurts", "measured"]
    assert tuple(control) == measured[1:4]


def test_an_unknown_variant_has_no_control_and_its_key_for_a_title(found):
    odd = found[found["variant"] == "psm_mul"].assign(variant="mine")
    assert controls(odd).empty and readable(controls(odd), "controls").empty
    assert readable(gradients(odd), "gradients").index.tolist() == ["mine"]


def test_records_without_selections_make_an_empty_table():
    assert readable(selections(records({"resnet18": 0.5}, hits=False)), "selections").empty


def test_hits_go_with_right_answers(found):
    table = selections(found)
    assert table.index.tolist() == [key for key in RATES if key.startswith("psm")]
    frame = found[(found["variant"] == "psm_mul") & found["selected_part"].notna()]
    seen = frame.groupby("id")["seed"].transform("size") == SEEDS
    right = (frame["label"] == frame["prediction"])[seen].groupby(frame["selected_part"]).mean()
    assert table.loc["psm_mul", "gain"] == pytest.approx(right[1] - right[0]) and table.loc["psm_mul", "gain"] > 0.2
    assert len(gradients(found)) == len(RATES)


def test_the_page_is_made_of_the_records(pages, photos):
    text = pages["RESULTS.md"]
    assert "| PSM mul |" in text and "5 seeds a row" in text and "300 test images" in text
    table = pretraining(photos)
    assert [f"{key}_scratch" for key in table.index] == [key for key in PHOTO_RATES if key.endswith("_scratch")]
    assert (table["difference"] > 0).all()
    assert markdown(readable(table, "pretraining")).count("\n") == len(table) + 1


def test_the_chinese_page_has_the_same_numbers_and_no_english_words(pages):
    english, text = (pages[file] for file in PAGES.values())
    numbers = re.compile(r"[+-]?\d+\.\d")
    tables = [[numbers.findall(line) for line in one.splitlines() if line.startswith("|")] for one in (english, text)]
    assert tables[0] == tables[1] and len(tables[0]) > 30
    words = {word for line in text.splitlines() if line.startswith("|") for word in re.findall("[A-Za-z]+", line)}
    names = {"ResNet", "ViT", "PSM", "CNN", "EfficientNet", "Lite"}
    assert words <= {*names, *FUSIONS, "flatten", "random", "Holm", "p"}
    assert not any(bracket in line for line in text.splitlines() if line.startswith("|") for bracket in "()")


def test_a_variant_that_is_missing_is_named(found):
    with pytest.raises(DataError, match="'psm_mul_contrastive'"):
        claims(found[found["variant"] != "psm_mul_contrastive"], COST)
