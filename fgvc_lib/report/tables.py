"""Tables: how runs compare, and any table of numbers as text."""

import tomllib

import pandas as pd

from ..experiments.statistics import difference, wilson
from ..runs import Run
from .words import Words, template

# What each kind of table shows: kind -> column -> format and where its numbers are.
LAYOUTS = tomllib.loads(template("tables.toml"))


def results_table(runs: dict[str, Run], reference: str | None = None) -> pd.DataFrame:
    """One row per run, under the keys of `runs`.

    Columns: accuracy, low, high (Wilson, 95%), images (tested); with a `reference`, the key of a run, also difference,
    difference_low, difference_high (to that run, see `statistics.difference`; nan for itself); step_ms (median time of a
    training step), minutes (of training), parameters (millions). Raises DataError for runs that were not tested on the same
    images as the reference.
    """
    rows = {}
    for key, run in runs.items():
        low, high = wilson(run.correct.sum(), len(run.correct))
        rows[key] = {"accuracy": run.correct.mean(), "low": low, "high": high, "images": len(run.correct)}
        if reference not in (None, key):
            apart = ("difference", "difference_low", "difference_high")
            rows[key] |= zip(apart, difference(run, runs[reference]), strict=True)
        rows[key]["step_ms"] = run.environment["step_ms"]
        rows[key]["minutes"] = run.environment["seconds"] / 60
        rows[key]["parameters"] = run.environment["parameters"] / 1e6
    return pd.DataFrame.from_dict(rows, orient="index")


def compare(one: Run, other: Run) -> str:
    """How much more accurate one run is than another on the same test images, with its interval, as text."""
    return _cell(Words(), "points", *difference(one, other))


def readable(table: pd.DataFrame, kind: str = "runs", lang: str = "en") -> pd.DataFrame:
    """A table of numbers as a table of text; a column whose numbers the table does not have is left out.

    kind: "runs" (`results_table`), "claims" or parts of it, "verdicts" and "measured" (`claims.claims`), "summary",
    "controls", "selections", "gradients" or "pretraining" (the functions in `summaries`), "front" (`results.front_table`),
    "areas" (`curve.areas`), "cost" (`bench.measure`), "hits" (means of `selection_hits`, one row per rule), or "maps" (means
    of `localise`, one row per run or method).
    """
    words, numbers, text = Words(lang), table.reset_index(names="key"), pd.DataFrame()
    for column, (style, *sources) in LAYOUTS[kind].items():
        if set(sources) <= set(numbers):
            rows = numbers[sources].itertuples(index=False, name=None)
            text[words.text["columns"][column]] = [_cell(words, style, *values) for values in rows]
    return text.set_index(text.columns[0])


def curve_table(points: pd.DataFrame, lang: str = "en") -> pd.DataFrame:
    """`curve.means` as a table of text: a row per rule, a column per k, and in a cell the accuracy (patches)."""
    words = Words(lang)
    cells = [words.write("kept", *values) for values in points[["accuracy", "patches"]].itertuples(index=False)]
    table = pd.Series(cells, points.index).unstack("k", sort=False)
    index = [words.write("rule", rule) for rule in table.index]
    return table.set_axis(index).rename_axis(words.text["columns"]["rule"]).rename_axis(columns="k")


def curve_summary(points: pd.DataFrame, table: pd.DataFrame) -> str:
    """What `curve.means` and `curve.areas` say of `mul`, in three lines."""
    first, last = points.index.unique("k")[[0, -1]]
    accuracy, patches, enough, area = points["accuracy"], points["patches"], table["enough"], table.loc["mul"]
    told = ", ".join(Words().write("rule", rule) for rule in table.index[table["p"] < 0.05]) or "no other rule"
    one = {rule: f"{patches[rule, first]:.1f} different patches, {accuracy[rule, first]:.1%}" for rule in ("mul", "random")}
    return (
        f"{first} a head, mul: {one['mul']}; random: {one['random']}. All {last} patches: {accuracy['mul', last]:.1%}.\n"
        f"Less than a point is lost from {enough['mul']:.1f} patches on by mul, from {enough['random']:.1f} on at random.\n"
        f"Between {area['fewest']:.1f} and {area['most']:.1f} patches, mul can be told from {told}."
    )


def _cell(words, style, *values):
    if style in ("photographs", "birds"):
        cells = [words.write(style, *place) + _finding(words, one) for place, one in values[0].items()]
        return words.text["stop"].join(cells) or words.text["none"]
    if style == "bench":
        level, found = values
        times = [words.write(one.asked.style, one) for finding in found.values() for one in finding.measured]
        return words.write("level", level) + "".join(times)
    if pd.isna(list(values)).any():
        return words.text["none"]
    return words.write(style, *values).removeprefix("= ")  # a p-value in a column of its own


def _finding(words, finding):
    shown = [words.write(one.asked.style, one) for one in finding.measured]
    if finding.why:
        return words.text["separator"].join([*shown, words.write("untested", finding.why)])
    return words.write("finding", words.text["separator"].join(shown), finding.verdict)


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown, its index first."""
    text = table.reset_index()
    lines = [text.columns, ["---"] * len(text.columns), *text.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
