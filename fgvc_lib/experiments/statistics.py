"""Intervals and tests."""

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from ..errors import DataError
from ..runs import Run

CHUNK = 1_000_000  # numbers that the bootstrap multiplies at a time
KEPT = 60_000_000  # draws, one byte each, that it keeps for the next values of the same shape: CUB-200-2011's take 58


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion: (low, high) in 0..1. Raises DataError if there is nothing to count."""
    if not total:
        raise DataError("an accuracy over no test images has no interval: name a data set with a test split")
    return tuple(binomtest(int(correct), int(total)).proportion_ci(method="wilson"))


def difference(one: Run, other: Run) -> tuple[float, float, float]:
    """How much more accurate one run is than another on the same test images: (mean, low, high) of `interval`.

    It says nothing of other seeds. Raises DataError if the runs were not tested on the same images.
    """
    a, b = one.correct.sort_index(), other.correct.sort_index()
    if not a.index.equals(b.index):
        raise DataError(f"{one.folder} and {other.folder} were not tested on the same images: train both on the same data")
    return interval(pd.DataFrame([a.astype(float) - b]))


def expected_calibration_error(predictions: pd.DataFrame, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, weighted over equal bins of confidence (Guo et al. 2017, eq. 3), 0..1."""
    right = (predictions["label"] == predictions["prediction"]).astype(float)
    gap = right - predictions["probability"]
    place = (predictions["probability"] * bins).astype(int).clip(upper=bins - 1)
    return float(gap.groupby(place).sum().abs().sum() / len(gap))


def bootstrap(values: np.ndarray, rounds: int = 10_000) -> np.ndarray:
    """Means (rounds,) of values (S seeds, n images), both seeds and images drawn anew with replacement in each round."""
    seeds, images = values.shape
    draws = _kept_draws if rounds * images <= KEPT else _draws
    means = [
        np.einsum("rn,rn->r", (drawn_seeds / seeds) @ values, drawn_images.astype(float) / images)
        for drawn_seeds, drawn_images in draws(seeds, images, rounds)
    ]
    return np.concatenate(means)


def _draws(seeds, images, rounds):
    """How often each seed (r, S) and each image (r, n) is drawn, some rounds at a time."""
    rng = np.random.default_rng(0)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), rounds)
    step = max(1, CHUNK // images)
    for some in np.split(drawn_seeds, range(step, rounds, step)):
        drawn_images = rng.multinomial(images, np.full(images, 1 / images), len(some))
        yield some, drawn_images.astype(np.uint8)  # that an image is drawn 256 times has a probability of 1e-507


@lru_cache(4)
def _kept_draws(*shape):
    return list(_draws(*shape))


def values_of(records: pd.DataFrame, key: str, column: str = "correct") -> pd.DataFrame:
    """One column of one variant's records (see `ablation.collect`), or whether each is right: seeds by test images.

    Raises DataError for a variant or a column that the records do not have.
    """
    frame = records[records["variant"] == key]
    if frame.empty or column not in ("correct", *frame):
        missing = f"variant {key!r}" if frame.empty else f"column {column!r}"
        raise DataError(f"the records have no {missing}: run the ablation to its end")
    values = frame["label"] == frame["prediction"] if column == "correct" else frame[column]
    return frame.assign(value=values.astype(float)).pivot(index="seed", columns="id", values="value")


def interval(values: pd.DataFrame) -> tuple[float, float, float]:
    """The mean of values (seeds by images) and its 95% interval from `bootstrap`: (mean, low, high).

    Images with a nan are left out; all three are nan if none is left.
    """
    values = values.dropna(axis=1).to_numpy()
    if not values.size:
        return (np.nan,) * 3
    return values.mean(), *np.quantile(bootstrap(values), (0.025, 0.975))


def p_value(values: pd.DataFrame, bound: float = 0.0) -> float:
    """Of the mean of values (seeds by images) being `bound`: two-sided, from `bootstrap`, at least 0.0002.

    Images with a nan are left out; nan if none is left.
    """
    values = values.dropna(axis=1).to_numpy()
    if not values.size:
        return np.nan
    means = bootstrap(values)
    return min(1.0, max(2 * min((means <= bound).mean(), (means >= bound).mean()), 2 / len(means)))


def paired(records: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Seeds by test images: 1 where variant `one` alone is right, -1 where variant `other` alone is (keys), else 0.

    Raises DataError if the variants were not run with the same seeds on the same images.
    """
    first, second = values_of(records, one), values_of(records, other)
    same = first.index.equals(second.index) and first.columns.equals(second.columns)
    if not same or first.isna().any(axis=None) or second.isna().any(axis=None):
        raise DataError(f"{one} and {other} do not have the same seeds and test images: run the ablation to its end")
    return first - second


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for their number by Holm's method; nan stays nan."""
    known = p.dropna()
    return pd.Series(multipletests(known, method="holm")[1] if len(known) else [], known.index, float).reindex(p.index)
