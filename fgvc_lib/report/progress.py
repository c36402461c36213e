"""The line that says how far the report has come."""

import re
import sys
import threading
import time

from tqdm import tqdm


class ReportBar(tqdm):
    """A progress bar over the cells of all notebooks, drawn anew every second, with what the cell itself says.

    total: seconds that all cells took when they last ran, on any machine. estimate: say how long the rest takes, too, if it
    goes on at the speed of this machine so far.
    """

    def __init__(self, total: float, estimate: bool = True):
        self.estimate, self.cell, self.started = estimate, 0.0, time.monotonic()
        self.begun, self._ended = self.started, threading.Event()
        form = "{desc} {percentage:3.0f}% |{bar:12}| {elapsed} gone{left}{postfix}"
        super().__init__(total=total, bar_format=form, dynamic_ncols=True)
        self._ticks = threading.Thread(target=self._tick, daemon=True)
        self._ticks.start()

    def _tick(self):
        while not self._ended.wait(1):
            self.refresh()

    def close(self) -> None:
        self._ended.set()
        self._ticks.join()
        super().close()

    def begin(self, title: str, seconds: float) -> None:
        """A cell starts that is expected to take so many of the `total` seconds."""
        self.cell, self.begun = seconds, time.monotonic()
        self.set_postfix_str("", refresh=False)
        self.set_description(title)

    def end(self) -> None:
        """The cell has ended."""
        self.update(self.cell)
        self.cell, self.begun = 0.0, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds: what the cells to come are expected to take, at the pace of those that are done."""
        pace = (self.begun - self.started) / self.n if self.n else 1.0
        gone = min(time.monotonic() - self.begun, pace * self.cell)  # a cell may take longer than expected
        return pace * (self.total - self.n) - gone

    @property
    def format_dict(self) -> dict:
        left = f", {self.format_interval(self.left)} left" if self.estimate else ""
        return super().format_dict | {"left": left}

    def say(self, text: str) -> None:
        """Show what a cell has printed to stderr: its own progress bar on this line, anything else above it."""
        for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[\w+", "", text)):
            if bar := re.match(r"(.*\d%)\|.*?\| *(.*)", line):
                self.set_postfix_str(" ".join(bar.groups()).strip())
            elif line.strip():
                self.write(line, file=sys.stderr)
