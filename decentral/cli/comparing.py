"""Runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from decentral.cli.words import LOCAL, MERGED, QUIET, SENT, console_of, facts, numbers
from decentral.records import BYTES
from decentral.report.compare import Comparison, write_comparison
from decentral.report.compare import compare as compared
from decentral.report.facts import ABSENT

#: Colours by column; others have none.
_STYLES = {"local mean": LOCAL, "merged": MERGED, BYTES.title: SENT}
#: Settings that follow from others or from the machine and explain no result.
_TRIVIAL = {"log_every", "checkpoint_every", "eval_every", "threads"}
#: What a run may lack altogether; a setting that others lack says no more than their plug-in.
_PARTS = {"topology", "communication"}


def compare(paths: Sequence[str], out: str) -> None:
    """Print a table of runs and write a page with their curves."""
    comparison = compared(paths)
    console = console_of()
    columns, rows = comparison.numeric, comparison.rows
    console.print(numbers(["run"], columns, rows, _STYLES, console.width))
    if len(comparison.rows) > 1:
        console.print()
        console.print(_differences(comparison))
    page = write_comparison(paths, out)
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    console.print(facts([("page", Text(str(page), link))]), soft_wrap=True)


def _differences(comparison: Comparison) -> Table:
    """Say of every run in which settings it differs from another."""
    first, *others = comparison.rows
    differing = [
        column
        for column in comparison.columns
        if column not in {"run", *comparison.numeric, *_TRIVIAL}
        and any(row[column] != first[column] for row in others)
        and (column in _PARTS or all(row[column] != ABSENT for row in comparison.rows))
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row(Text("run", QUIET), Text("what differs", QUIET))
    for row in comparison.rows:
        grid.add_row(row["run"], _settings(row, differing))
    return grid


def _settings(row: Mapping[str, str], columns: Sequence[str]) -> Text:
    given = [
        f"{column.removesuffix('.name')}={row[column]}"
        for column in columns
        if row[column] != ABSENT
    ]
    return Text(", ".join(given) or "nothing")
