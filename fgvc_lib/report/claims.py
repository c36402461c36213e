"""The course report's claims held against the ablation's records."""

import numpy as np
import pandas as pd

from ..experiments.statistics import bootstrap, holm, interval, paired, values_of

PLAIN = "ViT, overlap"  # the plain ViT that part selection is compared with
FUSED = ("PSM add", "PSM matmul", "PSM lastlayer", "PSM mul")  # the course report's four


def claims(records: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """A row a claim of the course report: what it says, what was measured, and the verdict: confirmed, contradicted, or
    cannot tell, where the 95 % interval holds zero (for the best of four: where Holm's p is not below 0.05 for all).

    records: from `ablation.collect`. cost: `bench.bench`'s table in the course report's own settings.
    """
    accuracy, low, high = interval(values_of(records, "ResNet-18"))
    found = [
        ("The ResNet-18 stays under 70 %", "under 70 %", f"{accuracy:.1%} ({low:.1%} to {high:.1%})",
         "cannot tell: the built-in birds were made that hard"),
        ("A ViT is better than the CNN", "far better: up to 89.90 %", *_against(records, PLAIN, "ResNet-18")),
        ("Overlapping patches help", "used throughout", *_against(records, PLAIN, "ViT")),
        ("Part selection helps", "its best model has it", *_against(records, "PSM mul", PLAIN)),
        ("`mul` is the best of the four fusions", "89.90 %, the best", *_best(records, "PSM mul")),
        ("The contrastive loss hurts", "did not help, dropped", *_against(records, "PSM mul, contrastive", "PSM mul", -1)),
    ]  # fmt: skip
    row = cost[cost["row"] == "mul"].iloc[-1]
    found.append((
        "Part selection trains faster", "about 3 %: 0.97 of the time",
        f"{row['train_ratio']:.2f} of the time ({row['train_low']:.2f} to {row['train_high']:.2f})",
        _verdict(1 - row["train_high"], 1 - row["train_low"]),
    ))  # fmt: skip
    part, even = (values_of(records, "ResNet-18", name) for name in ("map_counting", "map_counting_chance"))
    _, low, high = more = interval(part - even)
    measured = (f"{interval(part)[0]:.1%} of its gradient around the bird's parts lies around those that count, "
                f"{interval(even)[0]:.1%} if it lay evenly: {_points(more)}")  # fmt: skip
    found.append(("The CNN does not look at the fine differences", "roughly at the object", measured,
                  _verdict(-high, -low)))  # fmt: skip
    return pd.DataFrame(found, columns=["claim", "course report", "measured here", "verdict"]).set_index("claim")


# What a row of the ablation should be held against, where that is not the plain ViT.
CONTROLS = (
    ("PSM mul", "PSM random"), ("PSM mul, larger image", "ViT, overlap, larger image"),
    ("PSM mul, larger batch", "ViT, overlap, larger batch"), ("PSM mul, longer", "ViT, overlap, longer"),
    ("PSM mul, last layer fresh", "PSM mul"),
    ("PSM mul, 2 patches a head", "PSM mul"), ("PSM mul, flatten", "PSM mul"),
    ("PSM mul, from scratch", "ViT, overlap, from scratch"),
)  # fmt: skip


def controls(records: pd.DataFrame) -> pd.DataFrame:
    """The pairs of CONTROLS that the records have: their difference with its interval, and whether it leaves out zero."""
    there, found = set(records["row"]), {}
    for one, other in CONTROLS:
        if {one, other} <= there:
            apart = paired(records, one, other)
            clear = apart["low"] > 0 or apart["high"] < 0
            word = ("better" if apart["difference"] > 0 else "worse") if clear else "not distinguishable"
            found[f"{one} against {other}"] = {"difference": _points(list(apart.values())[:3]), "verdict": word}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def _verdict(low, high):
    return "confirmed" if low > 0 else "contradicted" if high < 0 else "cannot tell"


def _points(found):
    return "{:+.1f} points ({:+.1f} to {:+.1f})".format(*(100 * value for value in found))


def _against(records, one, other, wanted=1):
    found = paired(records, one, other)
    edges = sorted((wanted * found["low"], wanted * found["high"]))
    return f"{one} against {other}: {_points((found['difference'], found['low'], found['high']))}", _verdict(*edges)


def _best(records, name):
    rest = pd.DataFrame({other: paired(records, name, other) for other in FUSED if other != name}).T
    clear = holm(rest["p"]) < 0.05
    words = [f"against {other}: {_points(row[['difference', 'low', 'high']])}" for other, row in rest.iterrows()]
    better, worse = clear & (rest["difference"] > 0), clear & (rest["difference"] < 0)
    return "; ".join(words), "contradicted" if worse.any() else "confirmed" if better.all() else "cannot tell"


def selections(records: pd.DataFrame) -> pd.DataFrame:
    """Whether the selected patches lie where they should, a row a selecting row of the records, over seeds and images.

    Columns, as text with 95 % intervals: patches whose centre lies in the bird's box, images with a part that counts hit,
    each beside the chance of as many patches drawn at random; and by how much more often a hit goes with a right answer than
    a miss does.
    """
    found = {}
    for name in records["row"].unique():
        frame = records[records["row"] == name]
        if "selected_part" not in frame or frame["selected_part"].isna().all():
            continue
        get = lambda column, name=name: values_of(records, name, column)  # noqa: E731
        hit, right = get("selected_part"), get("correct")
        seen = ~hit.isna().any()
        hit, right = hit.loc[:, seen].to_numpy(), right.loc[:, seen].to_numpy()
        gain = _share(hit * right, hit) - _share((1 - hit) * right, 1 - hit)  # the same draws in all four
        middle = (hit * right).sum() / hit.sum() - ((1 - hit) * right).sum() / (1 - hit).sum()
        found[name] = {
            "patches in the box": _percent(interval(get("selected_bird"))),
            "chance": f"{interval(get('selected_bird_chance'))[0]:.1%}",
            "images with a part that counts hit": _percent(interval(get("selected_part"))),
            "chance ": f"{interval(get('selected_part_chance'))[0]:.1%}",
            "right if hit, against if missed": _points((middle, *np.nanquantile(gain, (0.025, 0.975)))),
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def gradients(records: pd.DataFrame) -> pd.DataFrame:
    """Where the input gradients lie, a row a row of the records: the pointing game, and shares in the box, on the parts and
    on those that count, each beside that of an even map."""
    found = {}
    for name in records["row"].unique():
        mean = {
            column: interval(values_of(records, name, f"map_{column}"))
            for column in ("peak", "box", "box_chance", "part", "part_chance", "counting", "counting_chance")
        }
        found[name] = {
            "largest value in the box": _percent(mean["peak"]),
            "gradient in the box": _percent(mean["box"]), "if even": f"{mean['box_chance'][0]:.1%}",
            "of that, on parts": _percent(mean["part"]), "if even ": f"{mean['part_chance'][0]:.1%}",
            "of that, on parts that count": _percent(mean["counting"]), "if even  ": f"{mean['counting_chance'][0]:.1%}",
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def _share(part, whole):
    with np.errstate(invalid="ignore"):
        return bootstrap(part) / bootstrap(whole)


def _percent(found):
    if np.isnan(found[0]):
        return "–"
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in found))


def pretraining(photos: pd.DataFrame) -> pd.DataFrame:
    """What pre-trained weights are worth, a row a model of the records that also has a row `, from scratch`."""
    names = [name for name in photos["row"].unique() if f"{name}, from scratch" in set(photos["row"])]
    rows = {}
    for name in names:
        apart = paired(photos, name, f"{name}, from scratch")
        rows[name] = {
            "pre-trained": _percent(interval(values_of(photos, name))),
            "from scratch": _percent(interval(values_of(photos, f"{name}, from scratch"))),
            "difference": _points((apart["difference"], apart["low"], apart["high"])),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
