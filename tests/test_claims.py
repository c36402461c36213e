import dataclasses
import json
import re
import tomllib

import numpy as np
import pandas as pd
import pytest
from conftest import project_at

from fgvc_lib.config import PROFILES, project_path
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.ablation import write_records
from fgvc_lib.experiments.bench import EVERY_MAP, MORE
from fgvc_lib.experiments.summaries import pretraining
from fgvc_lib.experiments.variants import FOUR, REFERENCE, ablation_variants, photo_variants, photos_variants
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.report import claims as rules
from fgvc_lib.report.claims import CLAIMS, Comparison, Evidence, Measured, claims, read_evidence, verdict
from fgvc_lib.report.results import FRONT, PAGES, claims_text, front_table, results_pages
from fgvc_lib.report.results import print_claims as printed
from fgvc_lib.report.tables import LAYOUTS, markdown, readable
from fgvc_lib.report.words import Words, template

LANGUAGES = ("en", "zh-CN")
SEEDS, IMAGES = 3, 200
GAIN, LIMIT = CLAIMS["selection_gains_little"]


def records(rates, classes=12, seed=0, boxes=False):
    """Records as `ablation.collect` makes them, each variant right at a given rate, the same images hard for all."""
    rng, frames = np.random.default_rng(seed), []
    hard = rng.random(IMAGES)
    for key, rate in rates.items():
        for number in range(SEEDS):
            right = hard + rng.normal(0, 0.1, IMAGES) < rate
            frame = pd.DataFrame({"variant": key, "seed": number, "id": range(IMAGES), "label": 1, "probability": 0.7})
            frame["prediction"] = right.astype(int)
            if boxes:
                frame["map_peak"], frame["map_box"], frame["map_box_chance"] = 1.0, 0.5 + 0.2 * rng.random(IMAGES), 0.4
                frame["map_part"], frame["map_part_chance"] = 0.3, 0.2
                frame["map_discriminative"], frame["map_discriminative_chance"] = 0.1 + 0.1 * rng.random(IMAGES), 0.1
                share = 0.5 if "psm" in key else np.nan
                frame["selected_bird"] = frame["selected_bird_chance"] = share
                frame["selected_part"] = frame["selected_part_chance"] = frame["selected_part_chance_on_bird"] = share
            frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    about = {"seconds": 60, "threads": 2, "device": "cpu", "classes": classes, "versions": {"torch": "2"}, "parameters": 2e6}
    experiment = {"weights": "imagenet"}
    runs = [{"variant": key, "seed": 0, "experiment": experiment, "environment": about} for key in rates]
    table.attrs = {"schema": 4, "runs": json.dumps(runs)}
    return table


def bench(low, high):
    row = {"row": "mul", "size": 224, "train_ratio": (low + high) / 2, "train_low": low, "train_high": high}
    return {"environment": {"device": "a clock"}, "rows": [{"row": "no PSM"}, row]}


def cost():
    names = ("train_ratio", "train_low", "train_high", "infer_ratio", "memory_mb", "images_s")
    numbers = {"size": 224, "patches": 324} | dict(zip(names, (0.9, 0.8, 1.0, 0.95, 100.5, 2.5), strict=True))
    rows = [{"row": row} | numbers for row in ("no PSM", *FUSIONS, MORE, *EVERY_MAP)]
    return bench(0.9, 0.9) | {"setting": {"model": "vit_b16", "stride": 12, "batch_size": 1, "repeats": 4}, "rows": rows}


RATES = dict.fromkeys(ablation_variants(PROFILES["quick"]), 0.6)
PHOTO_RATES = dict.fromkeys(photos_variants(PROFILES["photos"]), 0.6)
# The photographs say the opposite of the built-in birds on overlap and on the contrastive loss.
BIRDS = records(RATES | {"vit": 0.3, "psm_mul_contrastive": 0.4}, boxes=True)
PHOTOS = records(PHOTO_RATES | {"vit": 0.9, "efficientnet_lite0": 0.4, "psm_mul_contrastive": 0.9, "psm_mul": 0.8}, 40)
OTHERS = records(PHOTO_RATES | {"vit": 0.9, "efficientnet_lite0": 0.4, "psm_mul_contrastive": 0.2, "psm_mul": 0.4}, 60, 1)
DRAWINGS = records({key: 0.4 if key.endswith("_scratch") else 0.7 for key in photo_variants(PROFILES["quick"])})
SETS = {}, {"A": PHOTOS}, {"A": PHOTOS, "B": OTHERS}
NONE, ONE, TWO = (Evidence(sets, BIRDS, bench(0.9, 0.96), cost=cost()) for sets in SETS)


@pytest.fixture(scope="module")
def found():
    return {name: claims(evidence) for name, evidence in {"none": NONE, "one": ONE, "two": TWO}.items()}


@pytest.fixture(scope="module")
def pages():
    return results_pages(TWO, DRAWINGS)


def measured(asked, low, high, p=0.001):
    return Measured(asked, (low + high) / 2, low, high, p)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.005, 0.015, "confirmed"),
        (-0.005, 0.015, "cannot_tell"),  # perhaps no gain
        (0.005, 0.025, "cannot_tell"),  # perhaps not so little
        (0.025, 0.035, "contradicted"),  # a gain, but not very little
        (-0.035, -0.025, "contradicted"),  # no gain
    ],
)
def test_a_claim_holds_if_all_that_it_asserts_does(low, high, wanted):
    assert verdict([measured(GAIN, low, high), measured(LIMIT, low, high)]) == wanted


def test_both_the_interval_and_the_corrected_p_value_decide():
    assert verdict([measured(GAIN, 0.01, 0.02, p=0.049)]) == "confirmed"
    assert verdict([measured(GAIN, 0.01, 0.02, p=0.05)]) == "cannot_tell"
    assert verdict([measured(GAIN, 0.01, 0.02, p=np.nan)]) == "confirmed"  # nothing to correct for
    assert verdict([measured(GAIN, 0.0, 0.02, p=np.nan)]) == verdict([measured(GAIN, np.nan, np.nan)]) == "cannot_tell"
    below = Comparison("a", "b", below=True)
    assert verdict([measured(below, -0.02, -0.01)]) == "confirmed"
    assert verdict([measured(below, 0.01, 0.02)]) == "contradicted"


def test_p_values_are_corrected_for_the_comparisons_of_their_level(found):
    """On the built-in birds as on each set of photographs, whatever the others have."""
    for place, birds in found["two"].loc["overlap_helps", "birds"].items():
        assert place == ("", 12) and birds == found["none"].loc["overlap_helps", "birds"][place]
    untested = {*rules.BIRDS, "mul_chooses_best"}  # no curve is recorded
    asked = [one for claim, parts in CLAIMS.items() if claim not in untested for one in parts]
    (shown,) = found["none"].loc["overlap_helps", "birds"]["", 12].measured
    assert shown.p == pytest.approx(len(asked) * 2 / 10_000)  # the smallest p-value there is, times their number


def test_photographs_come_first(found):
    for name, wanted in (("none", "confirmed"), ("one", "contradicted"), ("two", "contradicted")):
        row = found[name].loc["overlap_helps"]
        assert row["verdict"] == wanted and row["level"] == ("birds" if name == "none" else "photographs")
        assert row["birds"]["", 12].verdict == "confirmed"


def test_sets_of_photographs_that_differ_cannot_tell(found):
    row = found["two"].loc["contrastive_hurts"]
    assert [one.verdict for one in row["photographs"].values()] == ["contradicted", "confirmed"]
    assert row["verdict"] == "cannot_tell" and row["level"] == "photographs"
    assert list(row["photographs"]) == [("A", 40), ("B", 60)]


def test_a_level_that_cannot_test_a_claim_says_why(found):
    birds = found["none"]["birds"].map(lambda places: places["", 12])
    assert {claim: one.why for claim, one in birds.items() if one.verdict == "not_tested"} == {
        **rules.BIRDS, "mul_chooses_best": "no_curve",
    }  # fmt: skip
    for claim in ("cnn_below_70", "vit_is_better", "vit_is_far_better", "reaches_89_90"):
        assert found["none"].loc[claim, ["verdict", "level"]].tolist() == ["not_tested", ""]
    assert found["one"].loc["cnn_is_coarse", "photographs"]["A", 40].why == "parts_unknown"
    assert found["one"].loc["cnn_is_coarse", ["verdict", "level"]].tolist() == ["contradicted", "birds"]


def test_an_imagenet_cnn_under_70_percent_is_what_the_photographs_measure(found):
    assert found["one"].loc["cnn_below_70", "verdict"] == "confirmed"  # 40%
    ((one,),) = (finding.measured for finding in found["one"].loc["cnn_below_70", "photographs"].values())
    assert one.asked.one == "efficientnet_lite0" and one.high < 0.7 == one.asked.bound
    assert found["one"].loc["vit_is_far_better", "verdict"] == "confirmed"
    good = claims(dataclasses.replace(ONE, photographs={"A": records(PHOTO_RATES | {"efficientnet_lite0": 0.9})}))
    assert good.loc["cnn_below_70", "verdict"] == good.loc["vit_is_better", "verdict"] == "contradicted"


def test_the_best_of_four_must_beat_all_three(found):
    assert found["one"].loc["mul_is_best", "verdict"] == "confirmed"
    assert found["two"].loc["mul_is_best", "photographs"]["B", 60].verdict == "contradicted"
    even = {"A": records(PHOTO_RATES | {"psm_mul": 0.8, "psm_add": 0.8})}
    row = claims(dataclasses.replace(ONE, photographs=even)).loc["mul_is_best"]
    assert row["verdict"] == "cannot_tell" and len(row["photographs"]["A", 12].measured) == len(FOUR) - 1


def test_the_best_row_on_photographs_is_shown_without_a_verdict(found):
    row = found["one"].loc["reaches_89_90"]
    finding = row["photographs"]["A", 40]
    (best,) = finding.measured
    right = (PHOTOS["label"] == PHOTOS["prediction"]).groupby(PHOTOS["variant"]).mean()
    assert best.mean == pytest.approx(right.max()) and best.asked.one == right.idxmax()
    assert row["verdict"] == finding.verdict == "not_tested" and finding.why == "other_test"


def test_time_is_decided_by_the_measurement_of_time_alone(found):
    assert found["one"].loc["selection_is_faster", ["verdict", "level"]].tolist() == ["confirmed", "bench"]
    for low, high, wanted in ((1.1, 1.2, "contradicted"), (0.9, 1.1, "cannot_tell")):
        assert claims(dataclasses.replace(NONE, bench=bench(low, high))).loc["selection_is_faster", "verdict"] == wanted


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_gpu_in_bf16_is_shown_beside_the_time_and_decides_nothing(lang):
    gpu = cost() | {"environment": {"device": "a card", "torch": "2"}}
    rows = [row | {"train_ratio": 1.23, "train_low": 1.11, "train_high": 1.31} for row in gpu["rows"]]
    rows += [row | {"size": 448, "train_ratio": 0.77} for row in rows]
    gpu = [gpu | {"rows": rows, "setting": gpu["setting"] | {"precision": precision}} for precision in ("bf16", "no")]
    evidence = dataclasses.replace(NONE, gpu=gpu)
    row = claims(evidence).loc["selection_is_faster"]
    assert row["verdict"] == "confirmed"
    assert [one.mean for one in row["bench"]["a clock",].measured] == pytest.approx([0.93, 1.23])
    text = claims_text(evidence, lang)
    assert text.count("1.23") == text.count("a card") == 1 and "1.23" not in claims_text(NONE, lang)


def test_rows_that_are_not_recorded_leave_a_claim_untested():
    short = PHOTOS[PHOTOS["variant"] != "psm_mul_larger_batch"]
    found = claims(dataclasses.replace(ONE, photographs={"A": short}))
    assert found.loc["larger_batches_gain", "photographs"]["A", 40].why == "rows_missing"
    assert found.loc["larger_batches_gain", "level"] == "birds" and found.loc["larger_images_gain", "level"] == "photographs"
    half = PHOTOS[(PHOTOS["variant"] != "vit") | (PHOTOS["seed"] == 0)]
    with pytest.raises(DataError, match=f"{REFERENCE} and vit do not have the same seeds"):
        claims(dataclasses.replace(ONE, photographs={"A": half}))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_claim_and_every_reason_has_its_words(lang):
    text = tomllib.loads(template(f"words.{lang}.toml"))
    assert text["claim"].keys() == text["said"].keys() == CLAIMS.keys()
    assert text["why"].keys() == {"rows_missing", "no_curve", *rules.PHOTOGRAPHS.values(), *rules.BIRDS.values()}
    assert text["verdict"].keys() == {"confirmed", "contradicted", "cannot_tell", "not_tested"}
    assert text["level"].keys() == {"photographs", "birds", "bench", ""}
    assert {one.style for parts in CLAIMS.values() for one in parts} | {"best"} <= text["formats"].keys()


def test_no_other_table_has_a_verdict():
    """Nor a p-value, but for the areas under the curves, a question of their own."""
    assert {kind for kind, columns in LAYOUTS.items() if "verdict" in columns} == {"claims", "verdicts"}
    formats, kinds = Words().text["formats"], LAYOUTS.keys() - {"claims", "verdicts"}
    shown = {
        (kind, style) for kind in kinds for style, *_ in LAYOUTS[kind].values() if re.search(":(p|verdict)}", formats[style])
    }
    assert shown == {("areas", "p")}


def test_a_row_in_words(found):
    text = readable(found["two"], "claims").loc[Words().text["claim"]["contrastive_hurts"]]
    shown = text["photographs"]
    pattern = (
        r"A, 40 species: PSM mul, contrastive against PSM mul: \+\d+\.\d points \(.*\), p = 0\.\d+: contradicted\. B, 60 "
    )
    assert re.match(pattern, shown) and shown.endswith(": confirmed")
    assert text["verdict"] == "cannot tell" and text["the verdict rests on"] == "photographs"
    text = readable(found["none"], "claims").loc[Words().text["claim"]["selection_is_faster"]]
    assert text["the verdict rests on"] == "the machine measured: 0.93 of the time without PSM (0.90 to 0.96)"
    assert text["photographs"] == "–"


def test_the_claims_are_the_same_wherever_they_are_shown(pages, found):
    for lang, (results, front) in PAGES.items():
        text, claim = claims_text(TWO, lang), Words(lang).text["claim"]
        assert text in pages[results]
        assert all(markdown(readable(found["two"], kind, lang)) in text for kind in ("verdicts", "measured"))
        assert all(pages[results].count(f"| {words} |") == 2 and words not in pages[front] for words in claim.values())


def test_the_front_pages_are_left_alone_but_for_their_models(pages):
    """One table for each set of photographs."""
    for lang, (_, front) in PAGES.items():
        old, new = (re.split("<!-- .* -->", text) for text in (project_path(front).read_text("utf-8"), pages[front]))
        assert len(new) == 3 and old[::2] == new[::2] and old[1] != new[1]
        tables = [readable(front_table(records), "front", lang) for records in TWO.photographs.values()]
        assert new[1].strip() == "\n\n".join(map(markdown, tables)) and len(tables[0]) == len(FRONT)
        model, weights = Words(lang).write("title", REFERENCE), Words(lang).text["weights"]["imagenet"]
        assert tables[0].loc[model].to_list()[:2] == ["2.0", weights]


def test_the_page_is_made_of_the_records(pages):
    text = pages["RESULTS.md"]
    assert "### A\n\n40 species, 200 test images, 3 seeds for each model. 22 runs" in text and "### B\n\n60 species" in text
    assert "None are recorded" not in text and "none are recorded" not in text
    assert text.index("### A") < text.index("### B") < text.index("## The built-in birds\n\n12 species")
    table = pretraining(DRAWINGS)
    assert [f"{key}_scratch" for key in table.index] == [
        key for key in photo_variants(PROFILES["quick"]) if "scratch" in key
    ]
    assert (table["difference"] > 0).all() and markdown(readable(table, "pretraining")) in text
    few = dataclasses.replace(NONE, birds=BIRDS[BIRDS["variant"].isin([REFERENCE, "psm_mul"])])
    few = dataclasses.replace(few, cost=None)
    alone = results_pages(few, DRAWINGS[DRAWINGS["variant"] == "vit"])["RESULTS.md"]
    assert "## What part selection costs" in text and "## What part selection costs" not in alone
    assert "evidence for these claims; none are recorded yet." in alone and "None are recorded yet:" in alone


def test_the_chinese_page_has_the_same_numbers_and_no_english_words(pages):
    english, text = (pages[results].replace(Words(lang).text["why"]["small"], "") for lang, (results, _) in PAGES.items())
    numbers = re.compile(r"[+-]?\d+\.\d")
    tables = [[numbers.findall(line) for line in one.splitlines() if line.startswith("|")] for one in (english, text)]
    assert tables[0] == tables[1] and len(tables[0]) > 100
    words = {word for line in text.splitlines() if line.startswith("|") for word in re.findall("[A-Za-z]+", line)}
    names = {"ResNet", "ViT", "PSM", "CNN", "EfficientNet", "Lite", "ImageNet", "ECE", "MB", "A", "B"}
    assert words <= {*names, *FUSIONS, "flatten", "random", "Holm", "p"}
    assert not any(bracket in line for line in text.splitlines() if line.startswith("|") for bracket in "()")
    prose = re.sub(r"`[^`]*`|\[.*?\]\(.*?\)", "", text)
    assert "{" not in prose and "None" not in prose


def test_the_evidence_is_read_from_the_project_and_printed(found, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    project_at(monkeypatch, tmp_path)
    results, step = tmp_path / "data" / "results", tmp_path / "data" / "bench" / "step.json"
    with pytest.raises(DataError, match=r"no measurement of time at .*step\.json .*bench --sizes 224"):
        read_evidence()
    step.parent.mkdir(parents=True)
    step.write_text(json.dumps(bench(0.9, 0.96)))
    with pytest.raises(DataError, match=r"no records at .*quick\.parquet"):
        read_evidence()
    for name, table in {"quick": BIRDS, "photos-B": OTHERS, "photos-A": PHOTOS, "curve-photos-C": curve_records()}.items():
        write_records(table, results / f"{name}.parquet")
    evidence = read_evidence()
    assert list(evidence.photographs) == ["A", "B"] and not evidence.curves
    wanted = readable(found["two"], "claims", "zh-CN")
    shown = [block.split("\n  ") for block in printed("zh-CN").split("\n\n")]
    assert {claim: cells for claim, *cells in shown} == {
        claim: [f"{column}：{cell}" for column, cell in row.items()] for claim, row in wanted.iterrows()
    }
    write_records(curve_records(), results / "curve-photos-A.parquet")
    assert list(read_evidence().curves) == ["A"]
    (results / "photos-A.parquet").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"photos-A\.parquet cannot be read"):
        read_evidence()


def curve_records():
    """Records of `curves`, each rule right at a rate of its own while it sees few patches."""
    rng, frames = np.random.default_rng(0), []
    for rule, rate in {"add": 0.5, "matmul": 0.5, "lastlayer": 0.9, "mul": 0.7}.items():
        for k, patches in ((1, 4), (9, 9)):
            right = rng.random((SEEDS, IMAGES)) < (rate if k == 1 else 0.9)
            frame = pd.DataFrame(right).stack().rename("correct").rename_axis(["seed", "id"]).reset_index()
            frames.append(frame.assign(rule=rule, k=k, patches=patches))
    table = pd.concat(frames, ignore_index=True)
    table.attrs = {"schema": 4, "runs": "[]"}
    return table


def test_the_sharper_test_of_mul_is_the_height_of_its_curve():
    """Where it is recorded; else it is not tested."""
    table = claims(dataclasses.replace(ONE, curves={"A": curve_records()}))
    (found,) = table.loc["mul_chooses_best", "photographs"].values()
    assert [one.side for one in found.measured] == [1, 1, -1]
    assert table.loc["mul_chooses_best", ["verdict", "level"]].tolist() == ["contradicted", "photographs"]
    (birds,) = table.loc["mul_chooses_best", "birds"].values()
    assert (birds.verdict, birds.why) == ("not_tested", "no_curve")
