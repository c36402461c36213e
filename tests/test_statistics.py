import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.errors import DataError
from fgvc_lib.experiments.statistics import (
    bootstrap,
    expected_calibration_error,
    interval,
    mcnemar,
    paired,
    summary,
    values_of,
    wilson,
)
from fgvc_lib.runs import Run


def run_of(folder, right, ids=None):
    run = Run(folder)
    run.predictions = pd.DataFrame({"id": ids or range(len(right)), "label": 1, "prediction": [int(r) for r in right]})
    return run


@pytest.fixture(scope="module")
def records():
    """Three variants with five seeds on 200 images; `better` really is."""
    rng, frames = np.random.default_rng(0), []
    for key, rate in (("base", 0.5), ("same", 0.5), ("better", 0.8)):
        for seed in range(5):
            right = rng.random(200) < rate
            frame = pd.DataFrame({"id": range(200), "label": 1, "prediction": right.astype(int), "probability": 0.5})
            frames.append(frame.assign(variant=key, seed=seed))
    return pd.concat(frames, ignore_index=True).astype({"variant": "category"})


def test_wilson_by_hand():
    z, p, n = 1.959964, 0.8, 50
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = wilson(40, 50)
    assert (low, high) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)), abs=1e-6)
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="no test images"):
        wilson(0, 0)


def test_mcnemar_by_hand(tmp_path):
    one = run_of(tmp_path / "a", [True] * 9 + [False] + [True] * 10)
    other = run_of(tmp_path / "b", [False] * 9 + [True] + [True] * 10)
    assert mcnemar(one, other) == pytest.approx(2 * 11 / 2**10)  # 9 against 1: (1 + 10) ways of 2^10, two-sided
    assert mcnemar(one, one) == 1.0
    shuffled = run_of(tmp_path / "c", other.correct.tolist()[::-1], ids=list(range(20))[::-1])
    assert mcnemar(one, shuffled) == mcnemar(one, other)
    with pytest.raises(DataError, match="same images"):
        mcnemar(one, run_of(tmp_path / "d", [True] * 3))


def test_the_summary_pairs_by_seed_and_image(records):
    table = summary(records, "base")
    accuracy = (records["label"] == records["prediction"]).groupby(records["variant"], observed=True).mean()
    for key in ("base", "same", "better"):
        assert table.loc[key, "accuracy"] == pytest.approx(accuracy[key])
        assert table.loc[key, "difference"] == pytest.approx(accuracy[key] - accuracy["base"])
        assert table.loc[key, "low"] <= table.loc[key, "accuracy"] <= table.loc[key, "high"]
    assert table.index.tolist() == ["base", "same", "better"]
    assert np.isnan(table.loc["base", "p"]) and (table["seeds"] == 5).all() and (table["images"] == 200).all()
    short = records[~((records["variant"] == "same") & (records["seed"] == 1))]
    with pytest.raises(DataError, match="same and base do not have the same seeds and test images"):
        summary(short, "base")


def test_holm_corrects_a_clear_difference_less_than_it_kills(records):
    table = summary(records, "base")
    assert table.loc["better", "p"] < 0.01 < 0.05 < table.loc["same", "p"]
    assert table.loc["better", "difference_low"] > 0.2
    assert table.loc["better", "p"] == 2 * paired(records, "better", "base")["p"]


def test_values_that_the_records_do_not_have(records):
    assert values_of(records, "same").shape == (5, 200)
    with pytest.raises(DataError, match="no variant 'psm_mul'"):
        values_of(records, "psm_mul")
    with pytest.raises(DataError, match="no column 'map_peak'"):
        values_of(records, "same", "map_peak")


def test_an_interval_leaves_out_what_is_unknown():
    values = pd.DataFrame([[0.0, 1, np.nan], [1, 1, 0]])
    assert interval(values)[0] == 0.75 and np.isnan(interval(values[[2]])).all()


def test_bootstrap_covers_images_and_seeds():
    rng = np.random.default_rng(0)
    values = (rng.random((1, 400)) < 0.5).astype(float)
    assert bootstrap(values).std() == pytest.approx(0.025, rel=0.1)  # one seed: the binomial's own
    apart = np.repeat([[0.2], [0.8]], 400, axis=1)
    assert bootstrap(apart).std() == pytest.approx(0.3 / 2**0.5, rel=0.1)  # no spread over images: all from the seeds


@pytest.mark.parametrize("shape", [(5, 480), (1, 7), (3, 6_000)])
def test_bootstrap_in_chunks_is_the_bootstrap(shape):
    values, rounds = np.random.default_rng(1).random(shape), 4_000
    rng = np.random.default_rng(0)
    seeds, images = (rng.multinomial(n, np.full(n, 1 / n), rounds) / n for n in shape)
    np.testing.assert_array_equal(bootstrap(values, rounds), np.einsum("rn,rn->r", seeds @ values, images))


def test_bootstrap_needs_little_memory():
    values = np.zeros((5, 20_000))
    tracemalloc.start()
    try:
        bootstrap(values, rounds=2_000)
        assert tracemalloc.get_traced_memory()[1] < 100e6  # all draws at once: 960 MB
    finally:
        tracemalloc.stop()


def test_calibration_by_hand():
    frame = pd.DataFrame({"label": [0, 0, 0, 0], "prediction": [0, 1, 0, 0], "probability": [0.75, 0.75, 0.95, 0.95]})
    assert expected_calibration_error(frame, bins=10) == pytest.approx((abs(0.5 - 0.75) + abs(1 - 0.95)) / 2)
