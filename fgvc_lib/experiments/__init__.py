"""Grids of experiments, and what is measured on them."""

from .ablation import ablate, against_record, made, plan, read_records, rerun, write_records
from .localisation import localise, map_hits, selection_hits
from .statistics import bootstrap, difference, interval, p_value, paired, values_of, wilson
from .summaries import controls, gradients, pretraining, selections, summary
from .variants import REFERENCE, Variant, ablation_variants, photo_variants, report_variants, title_of
