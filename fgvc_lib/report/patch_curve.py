"""How many patches a trained ViT's last layer needs, as tables of text, a figure and a file."""

from pathlib import Path

from ..app import named_run
from ..errors import ConfigError
from ..experiments.ablation import write_records
from ..experiments.curve import areas, curves, means
from ..files import write_whole
from . import plots
from .tables import curve_summary, curve_table, readable


def measure_curve(runs: tuple[str, ...], out: Path | None = None) -> str:
    """How accurate a trained ViT is when its last layer sees only the patches that each head prefers, by every fusion rule.

    Args:
        runs: a variant of the report, such as "ViT, overlap", or a run's folder; of several seeds, several folders.
        out: write the records to this file, which ends in .parquet, and the figure beside it.
    """
    if out and out.suffix != ".parquet":
        raise ConfigError(f"the records go into a parquet file: name one that ends in .parquet, not {out}")
    if not runs:
        raise ConfigError('name a trained run: a variant of the report, such as "ViT, overlap", or a run\'s folder')
    chosen = [named_run(name) for name in runs]
    records = curves(chosen)
    if out:
        write_records(records, out)
    points, table = means(records), areas(records)
    text = f"Accuracy (different patches that the last layer sees), k patches a head:\n{curve_table(points).to_string()}\n\n"
    text += f"{readable(table, 'areas').to_string()}\n\n{curve_summary(points, table)}"
    if (trained := chosen[0].experiment).fusion:
        text += (
            f"\nThis model's last layer was trained on what {trained.fusion} chooses, {trained.top_k} a head. How many "
            "patches a ViT needs is a question to one that was trained without --fusion."
        )
    if out:
        write_whole(out.with_suffix(".png"), plots.png(plots.patch_curves(points)))
        text += f"\nThe records are in {out}, the figure is {out.with_suffix('.png')}"
    return text
