"""What part selection costs, as a table of text, a figure and a file."""

import dataclasses
from json import dumps
from pathlib import Path

import pandas as pd

from ..config import active_experiment, project_path
from ..experiments.bench import EVERY_MAP_REPEATS, BenchSetting, environment, growth, loading, measure, resolve
from ..experiments.loop import LOOPS, STEPS, measure_loops
from ..files import write_whole
from . import plots
from .tables import readable
from .words import Words


def measure_cost(setting: BenchSetting, quick: bool = False, loop: bool = False, json: Path | None = None) -> str:
    """Measure what part selection costs beside the ViT without it and with every map kept (half an hour on two cores).

    Args:
        setting: what to measure.
        quick: under 3 minutes: vit_s16 at 224 and 384 pixels in 4 rounds, whatever model, sizes and repeats say.
        loop: measure what the training loop costs beside its steps instead, on the model and data of PROFILE and DATA, in as
            many rounds as repeats says.
        json: write the table, the setting and the machine to this file, too.

    Returns the table as text, and writes the figure to build/bench.png. Raises ConfigError for what cannot be measured.
    """
    if loop:
        return _loop_text(active_experiment(), resolve(setting), json)
    if quick:
        setting = dataclasses.replace(setting, model="vit_s16", sizes=(224, 384), repeats=4)
    setting = resolve(setting)
    table, rates, about = measure(setting), loading(), environment(setting)
    if json:  # first: half an hour's measurement is not to be lost by a figure
        record = {"environment": about, "setting": dataclasses.asdict(setting), "loading": rates}
        write_whole(json, dumps(record | {"rows": table.to_dict("records")}, indent=1))
    figure = project_path("build/bench.png")
    write_whole(figure, plots.png(plots.cost(table, about["floor"])))
    few = min(setting.repeats, EVERY_MAP_REPEATS)
    lines = [
        f"{setting.model}, stride {setting.stride}, precision {setting.precision}; {about['device']}, {about['torch']}.",
        f"Batches of {setting.batch_size}; ratios are of medians over {setting.repeats} rounds ({few} where every map "
        f"is kept), to the ViT without PSM.\n\n{cost_table(table).to_string()}\n",
    ]
    if len(setting.sizes) > 1:
        exponents = ", ".join(f"{row} {value:.2f}" for row, value in growth(table).items())
        lines.append(f"Time of a training step grows with the patches N as N to the power of: {exponents}")
    lines.append("Images per second on one core: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))
    return "\n".join([*lines, f"The figure is {figure}"])


def _loop_text(experiment, setting, json):
    """The table of `loop.measure_loops` as text; written to a file, too, if `json` names one."""
    table, about = measure_loops(experiment, setting.repeats), environment(setting)
    if json:
        record = {"environment": about, "experiment": dataclasses.asdict(experiment), "rows": table.to_dict("records")}
        write_whole(json, dumps(record, indent=1))
    text = pd.DataFrame(
        {
            "images/s": table["images_s"].map("{:.2f}".format),
            "time, bare step 1": table["ratio"].map("{:.3f}".format),
            "95% interval": [f"{row.low:.3f} – {row.high:.3f}" for row in table.itertuples()],
        }
    ).set_axis(table["loop"].map(LOOPS))
    return (
        f"{experiment.title} at {experiment.image_size} pixels, batches of {experiment.batch_size}, precision "
        f"{experiment.precision}; {about['device']}, {about['torch']}.\n"
        f"Medians of {setting.repeats} rounds of {STEPS} steps of each.\n\n{text.to_string()}"
    )


def cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `bench.measure` as text; ratios are to the ViT of the same size without part selection."""
    text = readable(table, "cost")
    text = text.set_index(list(text.columns[:2]), append=True)
    failed = (table["problem"] != "").to_numpy()
    text.loc[failed, Words().text["columns"]["step"]] = table.loc[failed, "problem"].to_numpy()
    return text
