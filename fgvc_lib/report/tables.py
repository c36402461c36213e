"""Numbers as tables of text."""

import numpy as np
import pandas as pd

from ..experiments.statistics import mcnemar, wilson
from ..runs import Run


def results_table(runs: dict[str, Run], reference: str | None = None) -> pd.DataFrame:
    """One row a run, named by the keys of `runs`.

    Columns: accuracy, low, high (Wilson, 95 %), images (tested), p (McNemar against the run named `reference`),
    step_ms (median time of a training step), minutes (of training), parameters (millions).
    """
    rows = {}
    for name, run in runs.items():
        low, high = wilson(run.correct.sum(), len(run.correct))
        rows[name] = {
            "accuracy": run.correct.mean(), "low": low, "high": high, "images": len(run.correct),
            "p": np.nan if reference in (None, name) else mcnemar(run, runs[reference]),
            "step_ms": run.environment["step_ms"], "minutes": run.environment["seconds"] / 60,
            "parameters": run.environment["parameters"] / 1e6,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def compare(one: Run, other: Run) -> str:
    """How two runs on the same test images differ: the difference in points, McNemar's p, and whether it counts at 5 %."""
    difference, p = 100 * (one.correct.mean() - other.correct.mean()), mcnemar(one, other)
    word = "cannot be told apart" if p >= 0.05 else "better" if difference > 0 else "worse"
    return f"{difference:+.1f} points, {'p = ' if p >= 0.001 else 'p '}{_p_text(p)}: {word}"


def readable_summary(table: pd.DataFrame) -> pd.DataFrame:
    """`summary` as text; differences in points, with a word for those that can be told from the reference."""
    word = np.select(
        [table["p"] >= 0.05, table["difference"] > 0, table["difference"] < 0],
        ["not distinguishable", "better", "worse"],
        "–",
    )
    return pd.DataFrame({
        "test accuracy": table["accuracy"].map("{:.1%}".format), "95 % interval": _range(table["low"], table["high"]),
        "seeds": table["seeds"].map("{:.0f}".format),
        "difference, points": (100 * table["difference"]).map("{:+.1f}".format),
        "its interval": _range(table["difference_low"], table["difference_high"], "+"),
        "p (Holm)": table["p"].map(lambda p: "–" if np.isnan(p) else _p_text(p)), "verdict": word,
        "calibration error": table["ece"].map("{:.1%}".format),
    }).rename_axis("model")  # fmt: skip


def _range(low, high, sign=""):
    return (100 * low).map(f"{{:{sign}.1f}}".format) + " to " + (100 * high).map(f"{{:{sign}.1f}}".format)


def _p_text(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`results_table` as text: what the notebooks and the README show."""
    return pd.DataFrame({
        "test accuracy": table["accuracy"].map("{:.1%}".format),
        "95 % interval": (100 * table["low"]).map("{:.1f} – ".format) + (100 * table["high"]).map("{:.1f}".format),
        "test images": table["images"].map(str),
        "p (McNemar)": table["p"].map(lambda p: "–" if np.isnan(p) else _p_text(p)),
        "ms a step": table["step_ms"].map("{:.0f}".format),
        "training, min": table["minutes"].map("{:.1f}".format),
        "parameters, M": table["parameters"].map("{:.1f}".format),
    }).rename_axis("model")  # fmt: skip


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown, its index first."""
    lines = [[table.index.name or "", *table.columns], ["---"] * (len(table.columns) + 1)]
    lines += [[name, *row] for name, row in zip(table.index, table.itertuples(index=False), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).strip() for cell in line) + " |" for line in lines)
