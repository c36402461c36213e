import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.errors import DataError
from fgvc_lib.experiments.statistics import (
    bootstrap,
    difference,
    expected_calibration_error,
    holm,
    interval,
    p_value,
    paired,
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


def test_the_difference_of_two_runs_pairs_their_images(tmp_path):
    one = run_of(tmp_path / "a", [True] * 60 + [False] * 40)
    other = run_of(tmp_path / "b", [True] * 40 + [False] * 60)
    mean, low, high = difference(one, other)
    std = math.sqrt(0.2 * 0.8 / 100)  # one is right where the other is not on 20 of 100 images
    assert mean == pytest.approx(0.2) and (low, high) == pytest.approx((0.2 - 1.96 * std, 0.2 + 1.96 * std), abs=0.01)
    assert difference(one, one) == (0, 0, 0)
    shuffled = run_of(tmp_path / "c", other.correct.tolist()[::-1], ids=list(range(100))[::-1])
    assert difference(one, shuffled) == (mean, low, high)
    with pytest.raises(DataError, match="same images"):
        difference(one, run_of(tmp_path / "d", [True] * 3))


def test_variants_are_paired_by_seed_and_image(records):
    apart = paired(records, "better", "base")
    right = (records["label"] == records["prediction"]).groupby(records["variant"], observed=True).mean()
    assert apart.shape == (5, 200) and set(np.unique(apart)) == {-1, 0, 1}
    assert apart.to_numpy().mean() == pytest.approx(right["better"] - right["base"])
    short = records[~((records["variant"] == "same") & (records["seed"] == 1))]
    with pytest.raises(DataError, match="same and base do not have the same seeds and test images"):
        paired(short, "same", "base")


def test_a_p_value_and_the_interval_agree(records):
    apart = paired(records, "better", "base")
    mean, low, high = interval(apart)
    assert p_value(apart) == 2 / 10_000  # no draw reaches zero
    assert p_value(apart, low) == pytest.approx(0.05, abs=0.003) == p_value(apart, high)
    assert p_value(apart, mean) > 0.9 and p_value(-apart, -low) == pytest.approx(p_value(apart, low), abs=0.003)
    assert p_value(paired(records, "base", "base")) == 1 and np.isnan(p_value(apart * np.nan))


def test_holm_by_hand():
    p = holm(pd.Series({"a": 0.01, "b": 0.04, "c": np.nan, "d": 0.03}))
    assert p.drop("c").to_dict() == pytest.approx({"a": 0.03, "b": 0.06, "d": 0.06}) and np.isnan(p["c"])
    assert holm(pd.Series(dtype=float)).empty


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
