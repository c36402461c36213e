"""The course report's claims held against the ablation's records, and what else the records say; all as numbers."""

import numpy as np
import pandas as pd

from ..experiments.statistics import bootstrap, holm, interval, paired, values_of
from ..experiments.variants import FOUR, REFERENCE, known_variants
from .tables import better_or_worse


def claims(records: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """What was measured on each claim of the course report, one row per claim, and the verdict.

    records: from `ablation.collect`. cost: the table of `bench.measure` in the course report's own settings.
    Columns: measured, a list of (format, mean, low, high, what else the format in templates/words.en.toml names) with 95 %
    intervals; verdict: confirmed, contradicted, or cannot_tell, where the interval holds zero (for the best of four: where
    Holm's p is not below 0.05 for all), or by_design. Raises DataError, naming it, for a variant that the records lack.
    """
    time, shortest, longest = cost[cost["row"] == "mul"].iloc[-1][["train_ratio", "train_low", "train_high"]]
    share, even = (values_of(records, "resnet18", f"map_discriminative{end}") for end in ("", "_chance"))
    more, least, most = interval(share - even)
    gradient = ("gradient", more, least, most, interval(share)[0], interval(even)[0])
    found = {
        "cnn_below_70": ([("accuracy", *interval(values_of(records, "resnet18")))], "by_design"),
        "vit_beats_cnn": _against(records, REFERENCE, "resnet18"),
        "overlap_helps": _against(records, REFERENCE, "vit"),
        "selection_helps": _against(records, "psm_mul", REFERENCE),
        "mul_is_best": _best(records, "psm_mul"),
        "contrastive_hurts": _against(records, "psm_mul_contrastive", "psm_mul", wanted=-1),
        "selection_is_faster": ([("time", time, shortest, longest)], _verdict(shortest - 1, longest - 1, wanted=-1)),
        "cnn_misses_details": ([gradient], _verdict(least, most, wanted=-1)),
    }
    return pd.DataFrame.from_dict(found, orient="index", columns=["measured", "verdict"])


def _verdict(low, high, wanted=1):
    """wanted: the sign that the claim asserts."""
    if low > 0 or high < 0:
        return "confirmed" if wanted * low > 0 else "contradicted"
    return "cannot_tell"


def _against(records, one, other, wanted=1):
    difference, low, high, _ = paired(records, one, other).values()
    return [("difference", difference, low, high, one, other)], _verdict(low, high, wanted)


def _best(records, one):
    rest = pd.DataFrame({other: paired(records, one, other) for other in FOUR if other != one}).T
    measured = [("other", *row[["difference", "low", "high"]], one, other) for other, row in rest.iterrows()]
    clear = rest.loc[holm(rest["p"]) < 0.05, "difference"]
    if (clear < 0).any():
        return measured, "contradicted"
    return measured, "confirmed" if len(clear) == len(rest) else "cannot_tell"


def controls(records: pd.DataFrame) -> pd.DataFrame:
    """Each variant of the records against the one it should be held against, where that is not the reference.

    Columns: against (key), difference, low, high (paired, 95 %), verdict: better, worse, or not_distinguishable, where the
    interval holds zero.
    """
    there, found = list(records["variant"].unique()), {}
    for key in there:
        other = known_variants()[key].against if key in known_variants() else None
        if other in there:
            difference, low, high, _ = paired(records, key, other).values()
            found[key] = (other, difference, low, high, better_or_worse(difference, low > 0 or high < 0))
    columns = ["against", "difference", "low", "high", "verdict"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def selections(records: pd.DataFrame) -> pd.DataFrame:
    """Whether the selected patches lie where they should, over seeds and images: one row per variant that selects.

    Columns: selected_bird (patches whose centre lies in the bird's box) and selected_part (images in which a discriminative
    part is hit), each with _low and _high (95 %) and _chance, that of as many patches drawn at random; gain, gain_low,
    gain_high: by how much more often a hit goes with a right answer than a miss does. All in 0..1.
    """
    if "selected_part" not in records:
        return pd.DataFrame()
    selecting = records.loc[records["selected_part"].notna(), "variant"].unique()
    columns = ("selected_bird", "selected_bird_chance", "selected_part", "selected_part_chance")
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
    map_discriminative (of that, on the discriminative parts), each with _low and _high (95 %), and all but the first with
    _chance, that of an even map.
    """
    shares = ("map_box", "map_part", "map_discriminative")
    return _means(records, records["variant"].unique(), ("map_peak", *shares, *(f"{share}_chance" for share in shares)))


def _means(records, keys, columns):
    """The mean of each column with its interval, one row per variant."""
    found = {key: {} for key in keys}
    for key, row in found.items():
        for column in columns:
            row[column], row[f"{column}_low"], row[f"{column}_high"] = interval(values_of(records, key, column))
    return pd.DataFrame.from_dict(found, orient="index")


def pretraining(records: pd.DataFrame) -> pd.DataFrame:
    """What pre-trained weights are worth: one row per variant that was also trained from scratch.

    Columns: pretrained, scratch (accuracies), each with _low and _high; difference, low, high. All with 95 % intervals.
    """
    there, found = list(records["variant"].unique()), {}
    for key in there:
        scratch = f"{key}_scratch"
        if scratch in there:
            accuracies = interval(values_of(records, key)), interval(values_of(records, scratch))
            found[key] = (*accuracies[0], *accuracies[1], *paired(records, key, scratch).values())
    means = [f"{name}{end}" for name in ("pretrained", "scratch") for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(found, orient="index", columns=[*means, "difference", "low", "high", "p"])
