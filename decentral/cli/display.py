"""Showing a run while it runs: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from decentral.cli.words import QUIET, evaluated, scores, spent
from decentral.engines.base import EngineRun
from decentral.report.facts import duration_text

Row = Mapping[str, Any]

#: Plain lines of one run, unless it is so slow that ``PATIENCE_S`` passes between two of them.
LINES = 12
PATIENCE_S = 60.0


class Display(Protocol):
    """What is told about a run: its rows of metrics."""

    def __enter__(self) -> Display:
        """Begin to show."""
        ...

    def __exit__(self, *problem: object) -> None:
        """Leave the terminal as it was."""
        ...

    def __call__(self, row: Row) -> None:
        """Show a row."""
        ...


def display_of(console: Console, run: EngineRun) -> Display:
    """Choose how to show a run."""
    live = console.is_terminal and not console.is_dumb_terminal
    return Bar(console, run) if live else Lines(console, run)


class Lines:
    """Plain lines at evaluations, a dozen of them."""

    def __init__(self, console: Console, run: EngineRun) -> None:
        """Show on ``console``."""
        self.console, self.run = console, run
        self.due, self.shown_s = 0.0, time.perf_counter()

    def __enter__(self) -> Lines:
        """Begin."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Nothing to clear away."""

    def __call__(self, row: Row) -> None:
        """Print a line if the row holds an evaluation and one is due."""
        steps, now = self.run.setup.config.steps, time.perf_counter()
        if not evaluated(row) or "phase" in row:
            return
        if row["step"] < self.due and now - self.shown_s < PATIENCE_S:
            return
        self.due, self.shown_s = row["step"] + steps / LINES, now
        width = len(f"{steps:,}")
        place = f"step {row['step']:>{width},}/{steps:,}"
        line = Text("  ").join([Text(place), *scores(row, self.run.records), spent(row)])
        self.console.print(line, soft_wrap=True)


class Bar:
    """A bar with what the newest evaluation found, refreshed by the clock."""

    def __init__(self, console: Console, run: EngineRun) -> None:
        """Show on ``console``; the step is read from the run itself."""
        self.run, self.steps = run, run.setup.config.steps
        self.first, self.began_s = run.step, time.perf_counter()
        self.newest: dict[str, Any] = {}
        self.live = Live(
            console=console, get_renderable=self.render, refresh_per_second=5, transient=True
        )

    def __enter__(self) -> Bar:
        """Begin to draw."""
        self.began_s = time.perf_counter()
        self.live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Erase the bar."""
        self.live.stop()

    def __call__(self, row: Row) -> None:
        """Keep the newest numbers."""
        self.newest |= row

    def render(self) -> RenderableType:
        """Draw the bar and, below it, the newest numbers."""
        step = self.run.step
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(ratio=1)
        for _ in range(2):
            line.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=self.steps, completed=step,
            complete_style="dodger_blue1", finished_style="dodger_blue1",
        )  # fmt: skip
        place = f"step {step:>{len(f'{self.steps:,}')},}/{self.steps:,}"
        line.add_row(bar, place, Text(self.remaining(step), QUIET))
        return Group(line, *self.numbers())

    def numbers(self) -> list[Text]:
        """Write the newest numbers."""
        row = dict(self.newest)
        if not evaluated(row):
            return [Text("evaluating the first models", QUIET)]
        return [Text("  ").join([*scores(row, self.run.records), spent(row)])]

    def remaining(self, step: int) -> str:
        """Estimate the time to the end from the steps since the display began."""
        done = step - self.first
        if not done:
            return "starting"
        left_s = (time.perf_counter() - self.began_s) / done * (self.steps - step)
        return f"{duration_text(max(1, round(left_s)))} left" if step < self.steps else "finishing"
