"""The tables of an ablation's records, as numbers: one row per variant."""

import numpy as np
import pandas as pd

from .statistics import bootstrap, expected_calibration_error, interval, paired, values_of
from .variants import REFERENCE, known_variants


def summary(records: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """One row per variant of an ablation's records (see `ablation.collect`), by key, over all its seeds.

    Columns: accuracy, low, high (mean over seeds, 95% interval from `bootstrap`), seeds, images; difference,
    difference_low, difference_high (to the variant `reference`, see `paired`; nan for itself); ece (expected calibration
    error, mean over seeds).
    Raises DataError if a variant was not run with the same seeds on the same images as the reference.
    """
    rows = {}
    for key, frame in records.groupby("variant", sort=False, observed=True):
        values, apart = values_of(records, key), paired(records, key, reference)
        accuracy, low, high = interval(values)
        middle, *ends = interval(apart) if key != reference else (np.nan,) * 3
        rows[key] = {
            "accuracy": accuracy, "low": low, "high": high, "seeds": len(values), "images": values.shape[1],
            "difference": middle, "difference_low": ends[0], "difference_high": ends[1],
            "ece": np.mean([expected_calibration_error(one) for _, one in frame.groupby("seed")]),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def controls(records: pd.DataFrame) -> pd.DataFrame:
    """Each variant of the records beside the one it should be held against, where that is not the reference.

    Columns: against (key), difference, low, high (paired, 95%).
    """
    there, found = list(records["variant"].unique()), {}
    for key in there:
        other = known_variants()[key].against if key in known_variants() else None
        if other in there:
            found[key] = (other, *interval(paired(records, key, other)))
    return pd.DataFrame.from_dict(found, orient="index", columns=["against", "difference", "low", "high"])


def selections(records: pd.DataFrame) -> pd.DataFrame:
    """Whether the selected patches lie where they should, over seeds and images: one row per variant that selects.

    Columns: selected_bird (patches whose centre lies in the bird's box) and selected_part (images in which a discriminative
    part is hit), each with _low and _high (95%) and _chance, that of as many patches drawn at random on the whole image;
    where the records have it, selected_part_chance_on_bird, of as many drawn on the bird; gain, gain_low, gain_high: by how
    much more often a hit goes with a right answer than a miss does. All in 0..1. Empty for data without boxes.
    """
    if "selected_part" not in records:
        return pd.DataFrame()
    selecting = records.loc[records["selected_part"].notna(), "variant"].unique()
    columns = ["selected_bird", "selected_bird_chance", "selected_part", "selected_part_chance"]
    columns += [column for column in ["selected_part_chance_on_bird"] if column in records]
    gains = pd.DataFrame({key: _gain(records, key) for key in selecting}, index=["gain", "gain_low", "gain_high"])
    return _means(records, selecting, columns).join(gains.T)


def _gain(records, key):
    hit, right = (values_of(records, key, column) for column in ("selected_part", "correct"))
    known = hit.notna().all()
    hit, right = hit.loc[:, known].to_numpy(), right.loc[:, known].to_numpy()
    missed = 1 - hit
    with np.errstate(invalid="ignore"):  # rounds without a hit, or without a miss
        draws = bootstrap(hit * right) / bootstrap(hit) - bootstrap(missed * right) / bootstrap(missed)
        middle = (hit * right).sum() / hit.sum() - (missed * right).sum() / missed.sum()
    return middle, *np.nanquantile(draws, (0.025, 0.975))


def gradients(records: pd.DataFrame) -> pd.DataFrame:
    """Where the input gradients lie, one row per variant.

    Columns: map_peak (the largest value lies in the box), map_box (share in the box), map_part (of that, on the parts),
    map_discriminative (of that, on the discriminative parts), each with _low and _high (95%), and all but the first with
    _chance, that of an even map.
    """
    shares = ("map_box", "map_part", "map_discriminative")
    return _means(records, records["variant"].unique(), ("map_peak", *shares, *(f"{share}_chance" for share in shares)))


def _means(records, keys, columns):
    """The mean of each column with its interval, one row per variant; of chances, which hardly vary, the mean alone."""
    found = {key: {} for key in keys}
    for key, row in found.items():
        for column in columns:
            values = values_of(records, key, column)
            if "_chance" in column:
                row[column] = values.dropna(axis=1).stack().mean()
            else:
                row[column], row[f"{column}_low"], row[f"{column}_high"] = interval(values)
    return pd.DataFrame.from_dict(found, orient="index")


def pretraining(records: pd.DataFrame) -> pd.DataFrame:
    """What pre-trained weights are worth: one row per variant that was also trained from scratch.

    Columns: pretrained, scratch (accuracies), each with _low and _high; difference, low, high. All with 95% intervals.
    """
    there, found = list(records["variant"].unique()), {}
    for key in there:
        scratch = f"{key}_scratch"
        if scratch in there:
            accuracies = interval(values_of(records, key)), interval(values_of(records, scratch))
            found[key] = (*accuracies[0], *accuracies[1], *interval(paired(records, key, scratch)))
    means = [f"{name}{end}" for name in ("pretrained", "scratch") for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(found, orient="index", columns=[*means, "difference", "low", "high"])
