"""Grids of experiments, and what is measured on them."""
