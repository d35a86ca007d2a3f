"""The commands that train, launch and resume, and how a run is shown while it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from decentral import api
from decentral.api.display import (
    Bar,
    Display,
    Record,
    bytes_text,
    has_metrics,
    place_text,
    scores,
)
from decentral.cli.output import console_of
from decentral.cli.settings import read_changes, read_words
from decentral.cli.words import (
    conclusion,
    facts,
    introduction,
    neighbour,
    path_text,
)
from decentral.config import Config
from decentral.engines.base import EngineRun
from decentral.engines.ranks import ranks_of
from decentral.errors import shell_word
from decentral.limits import JSON_BYTES, read_bytes


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
    run = api.begin(config, resume=resume)
    if isinstance(run, Path):
        _tell_finished(run, console, json)
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
    trust: Sequence[str] = (),
) -> None:
    """Go on with an interrupted run, perhaps elsewhere, perhaps otherwise.

    Args:
        path: Folder of the run.
        words: ``key=value``.
        flags: Options by the setting they stand for.
        changes: What is to be otherwise: ``key=value``, files, ``final_merge``.
        json: Whether the summary is printed as JSON.
        quiet: Whether nothing else is printed.
        trust: Digests of code that the run may name.
    """
    changed, anew = read_changes(changes), read_words(words, flags)
    run = api.restart(path, change=changed, trust=trust, **anew)
    if isinstance(run, Path):  # all said by the first of the ranks
        return
    _train(run, console_of(json, quiet), json)


def _tell_finished(folder: Path, console: Console, json: bool) -> None:
    """Say that there was nothing to train, or nothing: rank 0 has shown the run."""
    ranks = ranks_of()
    if ranks is not None and ranks.rank:
        return
    said = f"run {folder} is finished; `decentral report {shell_word(folder)}` shows it."
    console.print(said, soft_wrap=True)
    _print_summary(folder, json)


def report(path: str) -> None:
    """Write the report of a run and print where it is."""
    page = path_text(api.Run(Path(path)).report())
    console_of().print(page, soft_wrap=True)


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
        print(read_bytes(folder / "summary.json", JSON_BYTES).decode(), end="")


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

#: Plain lines of one run, unless it is so slow that ``PATIENCE_S`` passes between
#: two of them.
LINES = 12
PATIENCE_S = 60.0


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

    def __call__(self, record: Record) -> None:
        """Print a line if the record holds an evaluation and one is due."""
        steps, now = self.run.setup.config.steps, time.perf_counter()
        if not has_metrics(record) or "phase" in record:
            return
        if record["step"] < self.due and now - self.shown_s < PATIENCE_S:
            return
        # A dozen lines for any run, more only where minutes pass without one.
        self.due, self.shown_s = record["step"] + steps / LINES, now
        place = Text(place_text(record["step"], steps))
        line = Text("  ").join(
            [place, *scores(record, self.run.records), bytes_text(record)]
        )
        self.console.print(line, soft_wrap=True)
