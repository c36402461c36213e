"""The course report's claims held against the ablation's records, and the page of results made from them."""

import numpy as np
import pandas as pd

from .results import bootstrap, holm, interval, paired, readable_summary, summary, table_of

PLAIN = "ViT, overlap"  # the plain ViT that part selection is compared with
FUSED = ("PSM add", "PSM matmul", "PSM lastlayer", "PSM mul")  # the course report's four


def claims(records: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """A row a claim of the course report: what it says, what was measured, and the verdict: confirmed, contradicted, or
    cannot tell, where the 95 % interval holds zero.

    records: from `ablation.collect`. cost: `bench.bench`'s table in the course report's own settings.
    """
    accuracy, low, high = interval(table_of(records, "ResNet-18"))
    found = [
        ("The ResNet-18 stays under 70 %", "under 70 %", f"{accuracy:.1%} ({low:.1%} to {high:.1%})",
         "cannot tell: the built-in birds were made that hard"),
        ("A ViT is far better than the CNN", "89.90 % against under 70 %", *_against(records, PLAIN, "ResNet-18")),
        ("Overlapping patches help", "used throughout", *_against(records, PLAIN, "ViT")),
        ("Part selection helps", "its best model has it", *_against(records, "PSM mul", PLAIN)),
        ("`mul` is the best of the four fusions", "89.90 %, the best", *_best(records, "PSM mul")),
        ("The contrastive loss hurts", "did not help, dropped", *_against(records, "PSM mul, contrastive", "PSM mul", -1)),
    ]  # fmt: skip
    row = cost[cost["row"] == "mul"].iloc[-1]
    found.append((
        "Part selection trains about 3 % faster", "0.97 of the time",
        f"{row['train_ratio']:.2f} of the time ({row['train_low']:.2f} to {row['train_high']:.2f})",
        _verdict(1 - row["train_high"], 1 - row["train_low"]),
    ))  # fmt: skip
    part, even = (table_of(records, "ResNet-18", name) for name in ("map_part", "map_part_chance"))
    _, low, high = more = interval(part - even)
    measured = (f"{interval(part)[0]:.1%} of its gradient on the bird lies on the parts that count, "
                f"{interval(even)[0]:.1%} if it lay evenly: {_points(more)}")  # fmt: skip
    found.append(("The CNN looks at the object, not at the fine differences", "roughly at the object", measured,
                  _verdict(-high, -low)))  # fmt: skip
    return pd.DataFrame(found, columns=["claim", "course report", "measured here", "verdict"]).set_index("claim")


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

    Columns, as text with 95 % intervals: patches on the bird, images with a part that counts hit, each beside the chance of
    as many patches drawn at random; and by how much more often a hit goes with a right answer than a miss does.
    """
    found = {}
    for name in records["row"].unique():
        frame = records[records["row"] == name]
        if frame["selected_bird"].isna().all():
            continue
        get = lambda column, name=name: table_of(records, name, column)  # noqa: E731
        hit, right = get("selected_part"), get("correct")
        seen = ~hit.isna().any()
        hit, right = hit.loc[:, seen].to_numpy(), right.loc[:, seen].to_numpy()
        gain = _share(hit * right, hit) - _share((1 - hit) * right, 1 - hit)  # the same draws in all four
        middle = (hit * right).sum() / hit.sum() - ((1 - hit) * right).sum() / (1 - hit).sum()
        found[name] = {
            "patches on the bird": _percent(interval(get("selected_bird"))),
            "chance": f"{interval(get('selected_bird_chance'))[0]:.1%}",
            "images with a part that counts hit": _percent(interval(get("selected_part"))),
            "chance ": f"{interval(get('selected_part_chance'))[0]:.1%}",
            "right if hit, against if missed": _points((middle, *np.nanquantile(gain, (0.025, 0.975)))),
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def gradients(records: pd.DataFrame) -> pd.DataFrame:
    """Where the input gradients lie, a row a row of the records: the pointing game, shares in the box and on parts."""
    found = {}
    for name in records["row"].unique():
        mean = {
            column: interval(table_of(records, name, f"map_{column}"))
            for column in ("peak", "box", "box_chance", "part", "part_chance")
        }
        found[name] = {
            "largest value on the bird": _percent(mean["peak"]),
            "gradient in the box": _percent(mean["box"]), "chance": f"{mean['box_chance'][0]:.1%}",
            "of that, on parts that count": _percent(mean["part"]), "chance ": f"{mean['part_chance'][0]:.1%}",
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def _share(part, whole):
    with np.errstate(invalid="ignore"):
        return bootstrap(part) / bootstrap(whole)


def _percent(found):
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in found))


def pretraining(photos: pd.DataFrame) -> pd.DataFrame:
    """What pre-trained weights are worth, a row a model of the records that also has a row `, from scratch`."""
    names = [name for name in photos["row"].unique() if f"{name}, from scratch" in set(photos["row"])]
    rows = {}
    for name in names:
        apart = paired(photos, name, f"{name}, from scratch")
        rows[name] = {
            "pre-trained": _percent(interval(table_of(photos, name))),
            "from scratch": _percent(interval(table_of(photos, f"{name}, from scratch"))),
            "difference": _points((apart["difference"], apart["low"], apart["high"])),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def page(records: pd.DataFrame, photos: pd.DataFrame, cost: pd.DataFrame) -> str:
    """RESULTS.md, all of it from records."""
    made, table, photo_table = records.attrs["runs"], summary(records, PLAIN), summary(photos, PLAIN)
    about, minutes = made[0]["environment"], sum(entry["environment"]["seconds"] for entry in made) / 60
    seeds, photo_seeds = int(table["seeds"].max()), int(photo_table["seeds"].max())
    photo_classes = photos.attrs["runs"][0]["environment"]["classes"]
    return f"""# Results

Made by `make report` from the records in `data/results/` and `data/bench/`. Every row can be run again:
`python -m fgvc_lib rerun ROW`. Intervals are 95 %, bootstrapped over seeds and test images together; differences
are paired by seed and image.

## The claims of the course report

On the built-in birds: {about["classes"]} species, {table["images"].max():,.0f} test images, {seeds} seeds a row.
The course report shows one run each, and does not name its data set.

{markdown(claims(records, cost))}

## The ablation

All rows share data, schedule and seeds; each differs from another in what its name says. All but EfficientNet-Lite0,
which has seen ImageNet, start from `data/weights/`, pre-trained on built-in birds of other species. Differences are to
`{PLAIN}`; p values are corrected for {len(table) - 1} comparisons (Holm). {len(made)} runs, {minutes:.0f} minutes of
training on {about["threads"]} threads ({about["device"]}), torch {about["versions"]["torch"]}.

{markdown(readable_summary(table))}

## Do they look at the right place?

Selected patches: the share whose centre lies on the bird, and the share of images in which one of them holds a visible
part that sets the species apart from its siblings. Chance: as many different patches drawn at random. The last column is
an association, not a cause: both may come from an easy picture.

{markdown(selections(records))}

Input gradients of the loss: the pointing game, the share in the bird's box, and, of that, the share in the 16-pixel
squares around the parts that count, beside what an even map would get.

{markdown(gradients(records))}

## Real photographs

{photo_table["images"].max():,.0f} test images of {photo_classes} bird species, {photo_seeds} seeds a row; differences are
to `{PLAIN}`.

{markdown(readable_summary(photo_table))}

What pre-training is worth there: on the built-in birds for all models but EfficientNet-Lite0, which has seen ImageNet.

{markdown(pretraining(photos))}

Without ImageNet weights these rows say what part selection does to a small ViT that has seen only drawings before. They
cannot say what it does to a ViT-B/16 that has seen fourteen million photographs, which is what the course report's
89.90 % rest on. The row that has seen ImageNet shows how much of a result like that is pre-training.
"""


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown, its index first."""
    lines = [[table.index.name or "", *table.columns], ["---"] * (len(table.columns) + 1)]
    lines += [[name, *row] for name, row in zip(table.index, table.itertuples(index=False), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).strip() for cell in line) + " |" for line in lines)
