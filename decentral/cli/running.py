"""The commands that train, launch and resume, and how a run is shown while it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from decentral import api
from decentral.cli.settings import read_changes, read_words
from decentral.cli.words import (
    QUIET,
    bytes_text,
    conclusion,
    console_of,
    facts,
    has_metrics,
    introduction,
    neighbour,
    path_text,
    scores,
)
from decentral.config import Config
from decentral.engines.base import EngineRun
from decentral.errors import shell_word
from decentral.report.facts import duration_text


def launch(config: Config, *, resume: bool, json: bool, quiet: bool) -> None:
    """Train what a configuration describes.

    Args:
        config: The configuration.
        resume: Whether a run of that kind in the folder is gone on with, and left
            if finished.
        json: Whether the summary is printed as JSON.
        quiet: Whether nothing else is printed.
    """
    console = console_of(json, quiet)
    run = api.start_or_resume(config) if resume else api.start(config)
    if run is None:
        folder = Path(str(config.out)).expanduser()
        said = (
            f"run {folder} is finished; `decentral report {shell_word(folder)}` shows it."
        )
        console.print(said, soft_wrap=True)
        _print_summary(folder, json)
        return
    _train(run, console, json)


def resume(
    path: str,
    words: Sequence[str],
    flags: Mapping[str, str],
    changes: Sequence[str],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Go on with an interrupted run, perhaps elsewhere, perhaps otherwise.

    Args:
        path: Folder of the run.
        words: ``key=value``.
        flags: Options by the setting they stand for.
        changes: What is to be otherwise: ``key=value``, files, ``final_merge``.
        json: Whether the summary is printed as JSON.
        quiet: Whether nothing else is printed.
    """
    run = api.restart(path, change=read_changes(changes), **read_words(words, flags))
    _train(run, console_of(json, quiet), json)


def report(path: str) -> None:
    """Write the report of a run and print where it is."""
    print(path_text(api.Run(Path(path)).report()))


def _train(run: EngineRun, console: Console, json: bool) -> None:
    console.print(introduction(run))
    run.say = lambda text: console.print(text, soft_wrap=True)
    # What imports and preparation have made stays: no collection looks at it again.
    gc.freeze()
    gc.enable()
    with display_of(console, run) as display:
        summary = run.run(display)
    for table in conclusion(summary, run.records):
        console.print()
        console.print(table)
    with console.status("drawing the report"):
        page = api.Run(run.folder.path).report()
    console.print(facts(_next(run.folder.path, page)), soft_wrap=True)
    _print_summary(run.folder.path, json)


def _print_summary(folder: Path, json: bool) -> None:
    if json:
        print((folder / "summary.json").read_text(encoding="utf-8"), end="")


def _next(folder: Path, page: Path) -> list[tuple[str, Text | str]]:
    """Say where the report is, and what to compare the run with."""
    rows: list[tuple[str, Text | str]] = [
        ("report", Text(path_text(page), style=f"bold link {page.as_uri()}"))
    ]
    other = neighbour(folder)
    if other is not None:
        rows.append(
            ("compare", f"decentral compare {shell_word(other)} {shell_word(folder)}")
        )
    return rows


# --- while it runs ----------------------------------------------------------------

Row = Mapping[str, Any]

#: Plain lines of one run, unless it is so slow that ``PATIENCE_S`` passes between
#: two of them.
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
    # A file, a pipe or a log gets lines: it would keep every state of a bar.
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
        if not has_metrics(row) or "phase" in row:
            return
        if row["step"] < self.due and now - self.shown_s < PATIENCE_S:
            return
        # A dozen lines for any run, more only where minutes pass without one.
        self.due, self.shown_s = row["step"] + steps / LINES, now
        width = len(f"{steps:,}")
        place = f"step {row['step']:>{width},}/{steps:,}"
        line = Text("  ").join(
            [Text(place), *scores(row, self.run.records), bytes_text(row)]
        )
        self.console.print(line, soft_wrap=True)


class Bar:
    """A bar with what the newest evaluation found, refreshed by the clock."""

    def __init__(self, console: Console, run: EngineRun) -> None:
        """Show on ``console``; the step is read from the run itself."""
        self.run, self.steps = run, run.setup.config.steps
        self.first, self.began_s = run.step, time.perf_counter()
        self.newest: dict[str, Any] = {}
        self.live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=5,
            transient=True,
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
        if not has_metrics(row):
            return [Text("evaluating the first models", QUIET)]
        return [Text("  ").join([*scores(row, self.run.records), bytes_text(row)])]

    def remaining(self, step: int) -> str:
        """Estimate the time to the end from the steps since the display began."""
        done = step - self.first
        if not done:
            return "starting"
        # From steps of this process only: a resumed run may go on at another speed.
        left_s = (time.perf_counter() - self.began_s) / done * (self.steps - step)
        return (
            f"{duration_text(max(1, round(left_s)))} left"
            if step < self.steps
            else "finishing"
        )
