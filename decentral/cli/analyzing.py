"""The command that looks at the models of a run in depth: analyze."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from decentral import api
from decentral.cli.console import console_of
from decentral.cli.words import LOCAL, MERGED, QUIET, columned, count, facts, shown
from decentral.errors import ConfigError
from decentral.report import analysis

#: Layers that are listed in the terminal; the page has all.
_LAYERS = 12


def analyze(run: str, out: str | None, extent: dict[str, Any]) -> None:
    """Print what was measured of a run's models, and write it as JSON, page and picture."""
    folder = Path(run if out is None else out).expanduser()
    found = api.Run(Path(run))
    api.run_config(found.path)  # a mistake in the run comes before one in the folder
    _make(folder)
    console = console_of()
    record = _measured(found, extent, console)
    page = analysis.write_analysis(record, folder)
    head = f"{count(record['nodes'], 'model')} of step {record['step']:,}"
    console.print(Text.assemble((head, "bold"), f" of {run}"))
    for heads, rows in (
        (analysis.SCORES, analysis.score_rows(record)),
        (analysis.LINES, analysis.line_rows(record)),
        (analysis.LAYERS, analysis.layer_rows(record)),
        (analysis.OTHERS, analysis.other_rows(record)),
    ):
        console.print()
        _print(console, heads, list(rows))
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    files = [("page", Text(shown(page), link)), ("", "analysis.json, analysis.png beside it")]
    console.print(facts(files), soft_wrap=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = os.strerror(error.errno or 0)
        raise ConfigError(f"--out {folder} cannot be written ({cause}); name a folder.") from error


def _measured(found: api.Run, extent: dict[str, Any], console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}", style=QUIET), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("reading the run", total=None)

        def watch(what: str, done: int, of: int) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        return found.analyze(watch=watch, **extent)


def _print(console: Console, heads: Sequence[str], rows: Sequence[analysis.Cells]) -> None:
    table = columned(gap=2)
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows[:_LAYERS]:
        table.add_row(*_coloured(row))
    console.print(table)
    if len(rows) > _LAYERS:
        console.print(Text(f"{len(rows) - _LAYERS} more on the page", QUIET))


def _coloured(row: Iterable[str]) -> list[Text]:
    label, *values = row
    style = MERGED if "merged" in label else LOCAL if label == "the mean model" else ""
    return [Text(label), Text(values[0], style), *map(Text, values[1:])]
