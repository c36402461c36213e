"""Grids of experiments, and what is measured on them."""

from .ablation import ablate, against_record, made, plan, progress, read_records, rerun, write_records
from .localisation import energy_in_box, localise, map_hits, pointing_game, selection_hits
from .statistics import bootstrap, holm, interval, mcnemar, paired, summary, values_of, wilson
from .variants import (
    FOUR,
    REFERENCE,
    Variant,
    ablation_variants,
    known_variants,
    named,
    photo_variants,
    report_variants,
    title_of,
)  # fmt: skip

__all__ = [
    "FOUR", "REFERENCE", "Variant", "ablate", "ablation_variants", "against_record", "bootstrap", "energy_in_box", "holm",
    "interval", "known_variants", "localise", "made", "map_hits", "mcnemar", "named", "paired", "photo_variants", "plan",
    "pointing_game", "progress", "read_records", "report_variants", "rerun", "selection_hits", "summary", "title_of",
    "values_of", "wilson", "write_records",
]  # fmt: skip
