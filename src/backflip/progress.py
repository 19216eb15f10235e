"""What a person at the terminal sees of a run: steps, steps/s, labels, loss, time left."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from backflip.rundir import RunDir

LINE_SECONDS = 10.0
"""Where the output is no terminal, a line this often."""


class Progress:
    """One line that is kept current on a terminal, or now and then a new line in a log."""

    def __init__(self, run: RunDir, console: Console) -> None:
        self.run = run
        self.console = console
        self._position = 0
        self._newest: dict[str, float] = {}
        self._printed = 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        self.console.print(self.line(), highlight=False, soft_wrap=True)

    def __call__(self) -> None:
        """Look again and show."""
        if not self._live and time.monotonic() - self._printed < LINE_SECONDS:
            return
        self._printed = time.monotonic()
        if self._live:
            grid = Table.grid()
            grid.add_row(self.line())
            self._live.update(grid)
        else:
            self.console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """Everything in one line."""
        lines, self._position = self.run.metrics(self._position)
        self._newest.update({line["name"]: line["value"] for line in lines})
        act: dict[str, Any] = self.run.told("act")
        steps, pace = act.get("steps", 0), act.get("steps_per_second", 0.0)
        total = self.run.settings.get("steps", 0)
        by_people = self.run.settings.get("teacher") == "people"  # they end the run; its steps are only a bound
        parts = [
            str(act.get("state", "starting")),
            f"{short(steps)} steps" if by_people else f"{short(steps)} of {short(total)} steps",
        ]
        if pace:
            parts.append(f"{short(pace)} steps/s")
        if pace and not by_people and steps < total:
            parts.append(f"{duration((total - steps) / pace)} left")
        known = self._newest
        parts.append(f"{known.get('ask/labels', 0):.0f} of {self.run.settings.get('labels', 0)} labels")
        if "fit/train_loss" in known:
            validation = known.get("fit/validation_loss")
            parts.append(f"loss {known['fit/train_loss']:.3f}" + (f" / {validation:.3f}" if validation else ""))
        for name, label in (("act/predicted_return", "r̂ return"), ("act/true_return", "true return")):
            if name in known:
                parts.append(f"{label} {known[name]:.0f}")
        return " · ".join(parts)


def short(number: float) -> str:
    """A count that is quick to read: 950, 12.3k, 1.20M."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1000:.1f}k" if number < 1_000_000 else f"{number / 1_000_000:.2f}M"


def duration(seconds: float) -> str:
    """A time that is quick to read: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
