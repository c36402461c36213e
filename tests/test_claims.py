import json
import re

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.config import PROFILES
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.variants import ablation_variants
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.report.claims import PLAIN, claims, controls, gradients, pretraining, selections
from fgvc_lib.report.results import results_page
from fgvc_lib.report.tables import markdown

SEEDS, IMAGES = 5, 300


def records(rates, hits=True):
    """Records as `ablation.collect` makes them, each row right at a given rate, the same images hard for all."""
    rng, frames = np.random.default_rng(0), []
    hard = rng.random(IMAGES)
    for name, rate in rates.items():
        for seed in range(SEEDS):
            right = hard + rng.normal(0, 0.1, IMAGES) < rate
            frame = pd.DataFrame({"row": name, "seed": seed, "id": range(IMAGES), "label": 1, "probability": 0.7})
            frame["prediction"] = right.astype(int)
            frame["map_peak"], frame["map_box"], frame["map_box_chance"] = True, 0.6, 0.4
            frame["map_part"], frame["map_part_chance"] = 0.3, 0.2
            frame["map_counting"], frame["map_counting_chance"] = 0.1 + 0.1 * rng.random(IMAGES), 0.1
            if hits:
                select = "PSM" in name
                frame["selected_bird"] = frame["selected_bird_chance"] = 0.5 if select else np.nan
                hit = np.where(rng.random(IMAGES) < 0.2, np.nan, (right ^ (rng.random(IMAGES) < 0.2)).astype(float))
                frame["selected_part"], frame["selected_part_chance"] = (hit, 0.2) if select else (np.nan, np.nan)
            frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    about = {"seconds": 60, "threads": 2, "device": "cpu", "classes": 12, "versions": {"torch": "2"}}
    runs = [{"row": name, "seed": 0, "experiment": {}, "environment": about} for name in rates]
    table.attrs = {"schema": 3, "runs": json.dumps(runs)}
    return table


RATES = dict.fromkeys(ablation_variants(PROFILES["quick"]), 0.6)
COST = pd.DataFrame({"row": ["plain", "mul"], "train_ratio": [1, 0.93], "train_low": [1, 0.9], "train_high": [1, 0.96]})


@pytest.fixture(scope="module")
def found():
    rates = RATES | {"ResNet-18": 0.3, "PSM mul": 0.8, "PSM mul, contrastive": 0.5, "PSM add": 0.79}
    return records(rates)


def test_verdicts_follow_the_intervals(found):
    verdict = claims(found, COST)["verdict"]
    assert verdict["A ViT is better than the CNN"] == verdict["Part selection helps"] == "confirmed"
    assert verdict["The contrastive loss hurts"] == verdict["Part selection trains faster"] == "confirmed"
    assert verdict["Overlapping patches help"] == verdict["`mul` is the best of the four fusions"] == "cannot tell"
    assert verdict["The CNN does not look at the fine differences"] == "contradicted"
    assert verdict.iloc[0].startswith("cannot tell")


def test_verdicts_the_other_way():
    verdict = claims(records(RATES | {"PSM mul": 0.4, "ViT, overlap": 0.3}), COST.assign(train_low=1.1, train_high=1.2))[
        "verdict"
    ]
    assert verdict["A ViT is better than the CNN"] == verdict["`mul` is the best of the four fusions"] == "contradicted"
    assert verdict["The contrastive loss hurts"] == verdict["Part selection trains faster"] == "contradicted"
    assert verdict["Part selection helps"] == "confirmed"


def test_each_row_is_held_against_what_it_changes(found):
    table = controls(found)
    assert table.loc["PSM mul against PSM random", "verdict"] == "better" and len(table) == 7  # none from scratch
    assert table.loc["PSM mul, larger image against ViT, overlap, larger image", "verdict"] == "not distinguishable"


def test_hits_go_with_right_answers(found):
    table = selections(found)
    assert table.index.tolist() == [name for name in RATES if name.startswith("PSM")]
    points = float(table.loc["PSM mul", "right if hit, against if missed"].split()[0])
    frame = found[(found["row"] == "PSM mul") & found["selected_part"].notna()]
    seen = frame.groupby("id")["seed"].transform("size") == SEEDS
    right = (frame["label"] == frame["prediction"])[seen].groupby(frame["selected_part"]).mean()
    assert points == pytest.approx(100 * (right[1] - right[0]), abs=0.05) and points > 20
    assert len(gradients(found)) == len(RATES)


def test_the_page_is_made_of_the_records(found):
    names = [name for name in RATES if not name.startswith("ViT") or name == PLAIN]
    photos = records({f"{name}{end}": 0.7 if not end else 0.4 for end in ("", ", from scratch") for name in names})
    text = results_page(found, photos, COST)
    assert "| PSM mul |" in text and "5 seeds a row" in text and "300 test images" in text
    table = pretraining(photos)
    assert table.index.tolist() == names and table["difference"].str.startswith("+").all()
    assert markdown(table).count("\n") == len(names) + 1


def test_the_chinese_page_has_the_same_numbers_and_no_english_words(found):
    names = [name for name in RATES if not name.startswith("ViT") or name == PLAIN]
    photos = records({f"{name}{end}": 0.7 if not end else 0.4 for end in ("", ", from scratch") for name in names})
    english, text = results_page(found, photos, COST), results_page(found, photos, COST, "zh-CN")
    numbers = re.compile(r"[+-]?\d+\.\d")
    tables = [[numbers.findall(line) for line in one.splitlines() if line.startswith("|")] for one in (english, text)]
    assert tables[0] == tables[1] and len(tables[0]) > 30
    words = {word for line in text.splitlines() if line.startswith("|") for word in re.findall("[A-Za-z]+", line)}
    names = {"ResNet", "ViT", "PSM", "CNN", "EfficientNet", "Lite"}
    assert words <= {*names, *FUSIONS, "flatten", "random", "Holm", "p"}


def test_a_row_that_is_missing_is_named(found):
    with pytest.raises(DataError, match="no row 'PSM mul, contrastive'"):
        claims(found[found["row"] != "PSM mul, contrastive"], COST)
