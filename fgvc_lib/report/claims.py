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
    found = {
        "cnn_below_70": ([("accuracy", *interval(values_of(records, "resnet18")))], "by_design"),
        "vit_beats_cnn": _against(records, REFERENCE, "resnet18"),
        "overlap_helps": _against(records, REFERENCE, "vit"),
        "selection_helps": _against(records, "psm_mul", REFERENCE),
        "mul_is_best": _best(records, "psm_mul"),
        "contrastive_hurts": _against(records, "psm_mul_contrastive", "psm_mul", wanted=-1),
        "selection_is_faster": _faster(cost),
        "cnn_misses_details": _misses_details(records, "resnet18"),
    }
    return pd.DataFrame.from_dict(found, orient="index", columns=["measured", "verdict"])


def _verdict(low, high):
    return "confirmed" if low > 0 else "contradicted" if high < 0 else "cannot_tell"


def _against(records, one, other, wanted=1):
    """wanted: the sign of the difference that the claim asserts."""
    difference, low, high, _ = paired(records, one, other).values()
    verdict = _verdict(*sorted((wanted * low, wanted * high)))
    return [("difference", difference, low, high, one, other)], verdict


def _best(records, one):
    rest = pd.DataFrame({other: paired(records, one, other) for other in FOUR if other != one}).T
    clear = holm(rest["p"]) < 0.05
    measured = [("other", *row[["difference", "low", "high"]], one, other) for other, row in rest.iterrows()]
    if (clear & (rest["difference"] < 0)).any():
        return measured, "contradicted"
    return measured, "confirmed" if (clear & (rest["difference"] > 0)).all() else "cannot_tell"


def _faster(cost):
    ratio, low, high = cost[cost["row"] == "mul"].iloc[-1][["train_ratio", "train_low", "train_high"]]
    return [("time", ratio, low, high)], _verdict(1 - high, 1 - low)


def _misses_details(records, one):
    share, even = (values_of(records, one, f"map_discriminative{end}") for end in ("", "_chance"))
    difference, low, high = interval(share - even)
    measured = [("gradient", difference, low, high, interval(share)[0], interval(even)[0])]
    return measured, _verdict(-high, -low)


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
    selecting = records["variant"].isin(records.loc[records["selected_part"].notna(), "variant"])
    names = ("selected_bird", "selected_bird_chance", "selected_part", "selected_part_chance")
    table = _means(records[selecting], names)
    return table.join(pd.DataFrame({key: _named("gain", _gain(records, key)) for key in table.index}).T)


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
    return _means(records, ("map_peak", *shares, *(f"{share}_chance" for share in shares)))


def _means(records, columns):
    """The mean of each column with its interval, one row per variant."""
    found = {key: {} for key in records["variant"].unique()}
    for key, means in found.items():
        for column in columns:
            means |= _named(column, interval(values_of(records, key, column)))
    return pd.DataFrame.from_dict(found, orient="index")


def _named(name, estimate):
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))


def pretraining(records: pd.DataFrame) -> pd.DataFrame:
    """What pre-trained weights are worth: one row per variant that was also trained from scratch.

    Columns: pretrained, scratch (accuracies), each with _low and _high; difference, low, high. All with 95 % intervals.
    """
    there, found = list(records["variant"].unique()), {}
    for key in there:
        if (scratch := f"{key}_scratch") in there:
            found[key] = _named("pretrained", interval(values_of(records, key)))
            found[key] |= _named("scratch", interval(values_of(records, scratch))) | paired(records, key, scratch)
    return pd.DataFrame.from_dict(found, orient="index")
