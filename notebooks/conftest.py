"""What `pytest --nbval notebooks` compares with the committed outputs: all text.

Not compared: pictures, whose pixels another machine rounds otherwise; times; and what goes to stderr, which is progress bars
and remarks on the machine.
"""

NOT_COMPARED = ("stderr", "image/svg+xml", "image/webp")  # nor PNG and JPEG, which nbval leaves out by itself
SANITISED = {r"\s*\b[\d,.]+ (ms|min)\b": " TIME", r"data:image/[^\"')]*": "PICTURE"}


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # it is one of nbval's notebooks
        collector.skip_compare += NOT_COMPARED
        collector.sanitize_patterns |= SANITISED
