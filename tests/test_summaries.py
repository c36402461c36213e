import numpy as np
import pandas as pd
import pytest

from fgvc_lib.config import PROFILES
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.summaries import controls, gradients, selections, summary
from fgvc_lib.experiments.variants import ablation_variants
from fgvc_lib.report.tables import readable

SEEDS, IMAGES = 3, 200
GRID = ablation_variants(PROFILES["quick"])


@pytest.fixture(scope="module")
def records():
    """The whole grid, all as good but for psm_mul; hits go with right answers, and one image in five has no part to hit."""
    rng, frames = np.random.default_rng(0), []
    hard = rng.random(IMAGES)
    for key in GRID:
        for seed in range(SEEDS):
            right = hard + rng.normal(0, 0.1, IMAGES) < (0.8 if key == "psm_mul" else 0.5)
            frame = pd.DataFrame({"variant": key, "seed": seed, "id": range(IMAGES), "label": 1, "probability": 0.5})
            frame["prediction"] = right.astype(int)
            frame["map_peak"], frame["map_box"], frame["map_box_chance"] = True, 0.6, 0.4
            frame["map_part"], frame["map_part_chance"] = 0.3, 0.2
            frame["map_discriminative"], frame["map_discriminative_chance"] = 0.15, 0.1
            select = "psm" in key
            frame["selected_bird"] = frame["selected_bird_chance"] = 0.5 if select else np.nan
            hit = np.where(rng.random(IMAGES) < 0.2, np.nan, (right ^ (rng.random(IMAGES) < 0.2)).astype(float))
            frame["selected_part"], frame["selected_part_chance"] = (hit, 0.2) if select else (np.nan, np.nan)
            frame["selected_part_chance_on_bird"] = 0.4 if select else np.nan
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def test_the_summary_pairs_by_seed_and_image(records):
    table = summary(records)
    accuracy = (records["label"] == records["prediction"]).groupby(records["variant"]).mean()
    assert table.index.tolist() == list(GRID)
    for key in ("vit", "vit_overlap", "psm_mul"):
        assert table.loc[key, "accuracy"] == pytest.approx(accuracy[key])
        assert table.loc[key, "low"] <= table.loc[key, "accuracy"] <= table.loc[key, "high"]
    difference = table.loc["psm_mul", ["difference_low", "difference", "difference_high"]]
    assert difference["difference"] == pytest.approx(accuracy["psm_mul"] - accuracy["vit_overlap"])
    assert 0.2 < difference["difference_low"] < difference["difference"] < difference["difference_high"]
    assert table.loc["vit_overlap"].filter(like="difference").isna().all()  # the reference itself
    assert (table["seeds"] == SEEDS).all() and (table["images"] == IMAGES).all()
    assert summary(records, "psm_mul").loc["vit_overlap", "difference"] == pytest.approx(-difference["difference"])
    short = records[~((records["variant"] == "vit") & (records["seed"] == 1))]
    with pytest.raises(DataError, match="vit and vit_overlap do not have the same seeds and test images"):
        summary(short)


def test_each_variant_is_held_against_what_it_changes(records):
    table = controls(records)
    assert table["against"].to_dict() == {key: variant.against for key, variant in GRID.items() if variant.against}
    assert table.loc["psm_mul", "against"] == "psm_random" and table.loc["psm_mul", "low"] > 0.2
    assert table.loc["psm_mul_larger_image", "low"] < 0 < table.loc["psm_mul_larger_image", "high"]


def test_an_unknown_variant_has_no_control_and_its_key_for_a_title(records):
    odd = records[records["variant"] == "psm_mul"].assign(variant="mine")
    assert controls(odd).empty and readable(controls(odd), "controls").empty
    assert readable(gradients(odd), "gradients").index.tolist() == ["mine"]


def test_hits_go_with_right_answers(records):
    table = selections(records)
    assert table.index.tolist() == [key for key in GRID if key.startswith("psm")]
    frame = records[(records["variant"] == "psm_mul") & records["selected_part"].notna()]
    seen = frame.groupby("id")["seed"].transform("size") == SEEDS
    right = (frame["label"] == frame["prediction"])[seen].groupby(frame["selected_part"]).mean()
    assert table.loc["psm_mul", "gain"] == pytest.approx(right[1] - right[0]) and table.loc["psm_mul", "gain"] > 0.2
    assert len(gradients(records)) == len(GRID)
    assert all(
        kind == "f"
        for kind in (*table.dtypes.map(lambda dtype: dtype.kind), *gradients(records).dtypes.map(lambda d: d.kind))
    )


def test_chance_is_shown_on_the_image_and_where_it_is_recorded_on_the_bird(records):
    headers = {"chance, hit: patches on the whole image": "20.0%", "chance, hit: patches on the bird": "40.0%"}
    one = records[records["variant"] == "psm_mul"]
    text = readable(selections(one), "selections")
    assert text.loc["PSM mul", list(headers)].to_dict() == headers
    text = readable(selections(one.drop(columns="selected_part_chance_on_bird")), "selections")
    assert [header for header in headers if header in text] == list(headers)[:1]


def test_records_without_boxes_have_no_selections(records):
    bare = records.drop(columns=records.filter(regex="^(map|selected)_").columns)
    assert readable(selections(bare), "selections").empty
