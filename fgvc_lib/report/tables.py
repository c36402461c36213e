"""Tables: how runs compare, and any table of numbers as text."""

import tomllib

import numpy as np
import pandas as pd

from ..experiments.statistics import holm, mcnemar, wilson
from ..runs import Run
from .words import Words, template

# What each kind of table shows: kind -> column -> format and where its numbers are.
LAYOUTS = tomllib.loads(template("tables.toml"))


def results_table(runs: dict[str, Run], reference: str | None = None) -> pd.DataFrame:
    """One row per run, under the keys of `runs`.

    Columns: accuracy, low, high (Wilson, 95 %), images (tested), p (McNemar against the run named `reference`, corrected
    for the number of rows by Holm's method), step_ms (median time of a training step), minutes (of training), parameters
    (millions). Raises DataError for runs that were not tested on the same images as the reference.
    """
    rows = {}
    for key, run in runs.items():
        low, high = wilson(run.correct.sum(), len(run.correct))
        rows[key] = {
            "accuracy": run.correct.mean(),
            "low": low,
            "high": high,
            "images": len(run.correct),
            "p": np.nan if reference in (None, key) else mcnemar(run, runs[reference]),
            "step_ms": run.environment["step_ms"],
            "minutes": run.environment["seconds"] / 60,
            "parameters": run.environment["parameters"] / 1e6,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.assign(p=holm(table["p"]))


def compare(one: Run, other: Run) -> str:
    """How two runs on the same test images differ: the difference in points, and whether McNemar's p, of this pair alone,
    is below 0.05."""
    difference, p = one.correct.mean() - other.correct.mean(), mcnemar(one, other)
    shown = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return f"{100 * difference:+.1f} points, {shown}: {_cell(Words(), 'comparison', difference, p)}"


def better_or_worse(difference: float, clear: bool) -> str:
    """The key of the word for a difference, given whether it can be told from zero."""
    if not clear:
        return "not_distinguishable"
    return "better" if difference > 0 else "worse"


def readable(table: pd.DataFrame, kind: str = "runs", lang: str = "en") -> pd.DataFrame:
    """A table of numbers as a table of text.

    kind: "runs" (`results_table`), "summary" (`statistics.summary`), "claims", "controls", "selections", "gradients" or
    "pretraining" (the functions in `claims`), "areas" (`curve.areas`), or "maps" (means of `localise`, one row per run or
    method).
    """
    words, numbers, text = Words(lang), table.reset_index(names="key"), pd.DataFrame()
    for column, (style, *sources) in LAYOUTS[kind].items():
        rows = () if table.empty else numbers[sources].itertuples(index=False, name=None)
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
    if style == "measured":
        return words.text["separator"].join(_cell(words, *one) for one in values[0])
    if pd.isna(list(values)).any():
        return words.text["none"]
    if style == "comparison":
        difference, p = values
        return words.write("verdict", better_or_worse(difference, p < 0.05))
    return words.write("small_p" if style == "p" and values[0] < 0.001 else style, *values)


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown, its index first."""
    text = table.reset_index()
    lines = [text.columns, ["---"] * len(text.columns), *text.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
