"""What is made from runs and records: figures (panels of pictures, plots of numbers), tables, claims, the page
of results, and the site of all notebooks.

Import from the modules: `plots` and `build` take seconds to load, and few callers need both.
"""
