"""The commands that train: launch and resume."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from decentral import api
from decentral.cli.console import console_of
from decentral.cli.display import display_of
from decentral.cli.settings import config_of, given
from decentral.cli.words import conclusion, facts, introduction, neighbour, shown
from decentral.engines.base import EngineRun


def launch(words: Sequence[str], flags: Mapping[str, str], *, json: bool, quiet: bool) -> None:
    """Train what the words and flags describe."""
    _train(api.start(config_of(words, flags)), console_of(json, quiet), json)


def resume(
    path: str, words: Sequence[str], flags: Mapping[str, str], *, json: bool, quiet: bool
) -> None:
    """Go on with an interrupted run, perhaps elsewhere."""
    _train(api.restart(path, **given(words, flags)), console_of(json, quiet), json)


def report(path: str) -> None:
    """Write the report of a run and print where it is."""
    print(shown(api.Run(Path(path)).report()))


def _train(run: EngineRun, console: Console, json: bool) -> None:
    console.print(introduction(run))
    run.say = lambda text: console.print(text, soft_wrap=True)
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
    if json:
        print((run.folder.path / "summary.json").read_text(encoding="utf-8"), end="")


def _next(folder: Path, page: Path) -> list[tuple[str, Text | str]]:
    """Say where the report is, and what to compare the run with."""
    rows: list[tuple[str, Text | str]] = [
        ("report", Text(shown(page), style=f"bold link {page.as_uri()}"))
    ]
    other = neighbour(folder)
    if other is not None:
        rows.append(("compare", f"decentral compare {other} {folder}"))
    return rows
