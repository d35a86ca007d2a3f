"""Sweeps on the command line: progress, the table, and what failed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from decentral.cli.console import console_of
from decentral.cli.settings import given, sorted_out
from decentral.cli.words import LOCAL, MERGED, SENT, columned, count, facts, shown
from decentral.errors import ConfigError, Interrupted, RunError
from decentral.report.facts import duration_text, facts_of, number_text
from decentral.report.reader import read_run
from decentral.report.sweep import cells, write_sweep
from decentral.run.folder import RunFolder
from decentral.sweeps import (
    Outcome,
    Point,
    Sweep,
    csv_text,
    grouped,
    measured,
    read_sweep,
    run_point,
)

_STYLES = {"local before": LOCAL, "merged": MERGED, "of all-reduce": SENT}


def sweep(words: Sequence[str], flags: Mapping[str, str], *, quiet: bool) -> None:
    """Run the points of a sweep that are not finished, then show all of them."""
    path, assignments = sorted_out(words)
    out = flags.get("out") or f"sweeps/{Path(path).stem if path else 'sweep'}"
    found = read_sweep(path, assignments, {k: v for k, v in given([], flags).items() if k != "out"})
    folder = Path(out).expanduser()
    console = console_of(quiet=quiet)
    console.print(_introduction(found, folder))
    _make(folder)
    failures = _run(found, folder, console)
    _conclude(found, folder, failures, console)
    if failures:
        raise RunError(
            f"{count(len(failures), 'run')} of {len(found.points)} failed, the first in "
            f"{failures[0]} The same command tries again what failed, and nothing else."
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = os.strerror(error.errno or 0)
        raise ConfigError(
            f"sweep folder {folder} cannot be written ({cause}); choose another --out."
        ) from error


def _introduction(found: Sweep, folder: Path) -> Table:
    finished = sum(point.finished(folder) for point in found.points)
    lengths = {axis: len({p.labels[axis] for p in found.points}) for axis in found.axes}
    shape = " × ".join(f"{length} {axis}" for axis, length in lengths.items())
    same = f", {found.repeated} more are the same as others" if found.repeated else ""
    before = f", {finished} of them finished before" if finished else ""
    return facts(
        [
            ("sweep", Text(f"{count(len(found.points), 'run')}: {shape}{same}{before}")),
            ("folder", str(folder)),
        ]
    )


def _run(found: Sweep, folder: Path, console: Console) -> list[str]:
    """Run the points in turn; return what failed, and why."""
    failures: list[str] = []
    for number, point in enumerate(found.points, start=1):
        began_s = time.perf_counter()
        name = ", ".join(f"{axis}={label}" for axis, label in point.labels.items())
        place = f"{number:>{len(str(len(found.points)))}}/{len(found.points)}"
        try:
            with console.status(f"{place}  {name}"):
                outcome = run_point(point, folder, lambda row: None)
        except Interrupted as error:
            raise Interrupted(
                f"interrupted in {name}; everything is saved. The same command goes on."
            ) from error
        if outcome.state == "failed":
            failures.append(f"{name}: {outcome.reason}")
        if outcome.state != "before":
            took = duration_text(time.perf_counter() - began_s)
            console.print(_line(place, name, point, folder, outcome, took))
    return failures


def _line(place: str, name: str, point: Point, folder: Path, outcome: Outcome, took: str) -> Text:
    if outcome.state == "failed":
        return Text.assemble(f"{place}  {name}  ", ("failed: ", "bold red"), outcome.reason)
    reached = facts_of(read_run(point.folder(folder)))
    merged = number_text(reached.merged, reached.metric)
    return Text.assemble(f"{place}  {name}  merged ", (merged, MERGED), f"  {took}")


def _conclude(found: Sweep, folder: Path, failures: Sequence[str], console: Console) -> None:
    results = measured(found, folder)
    groups = grouped(found, results)
    table = columned(gap=2)
    for axis in groups[0].labels:
        table.add_column(axis, overflow="fold")
    rows: list[Mapping[str, Any]] = [cells(group) for group in groups]
    for column in rows[0]:
        table.add_column(column, justify="right", no_wrap=True, style=_STYLES.get(column, ""))
    for group, row in zip(groups, rows, strict=True):
        table.add_row(*group.labels.values(), *row.values())
    page = write_sweep(folder, groups, failures)
    RunFolder(folder).write("results.csv", csv_text(found, results, folder))
    console.print()
    console.print(table)
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    files = [
        ("report", Text(shown(page), link)),
        ("", f"{shown(folder / 'results.csv')}, sweep.png"),
    ]
    console.print(facts(files), soft_wrap=True)
