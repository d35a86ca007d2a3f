"""Several runs on the command line: a sweep, with what failed of it, and runs side
by side.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from decentral import api
from decentral.cli.output import console_of, print_json
from decentral.cli.settings import read_words, refuse_flags_given, sort_words
from decentral.cli.words import (
    LOCAL,
    MERGED,
    QUIET,
    SENT,
    count,
    facts,
    folder_text,
    make_columns,
    numbers,
    path_text,
)
from decentral.config import resolve_aliases, split_assignments
from decentral.engines.ranks import refuse_ranks
from decentral.errors import ConfigError, Interrupted, RunError
from decentral.limits import named_folder
from decentral.records import BYTES
from decentral.report.compare import (
    Comparison,
    cells,
    columns,
    write_comparison,
)
from decentral.report.facts import ABSENT, duration_text, facts_of, flatten, number_text
from decentral.report.reader import RunData, read_run
from decentral.report.serve import Server, find_runs, run_record
from decentral.run.lock import WriterLock
from decentral.sweeps import (
    Outcome,
    Point,
    Sweep,
    read_sweep,
    run_points,
    write_results,
)

_STYLES = {"local before": LOCAL, "merged": MERGED, "of all-reduce": SENT}


def sweep(
    words: Sequence[str],
    flags: Mapping[str, str],
    *,
    quiet: bool,
    trust: Sequence[str] = (),
) -> None:
    """Run the points of a sweep that are not finished, then show all of them.

    Args:
        words: Files and ``key=a,b``.
        flags: Options by the setting they stand for.
        quiet: Whether only the table is printed.
        trust: Digests of code that a file may name.
    """
    path, assignments = sort_words(words)
    out = flags.get("out") or f"sweeps/{Path(path).stem if path else 'sweep'}"
    same = {k: v for k, v in read_words([], flags).items() if k != "out"}
    refuse_flags_given(same, resolve_aliases(split_assignments(assignments)))
    found = read_sweep(path, assignments, same, trust)
    for point in found.points:
        refuse_ranks(point.config)
    folder = named_folder(out)
    console = console_of(quiet=quiet)
    # Two sweeps in one folder would both begin what is missing.
    with WriterLock(folder, "sweep folder"):
        console.print(_introduction(found, folder))
        failures = _run(found, folder, console)
        _conclude(found, folder, failures, console)
    # After the table and the page: what did finish is shown all the same.
    if failures:
        raise RunError(
            f"{count(len(failures), 'run')} of {len(found.points)} failed, the first in "
            f"{failures[0]} The same command tries again what failed, and nothing else."
        )


def _introduction(found: Sweep, folder: Path) -> Table:
    finished = sum(point.finished(folder) for point in found.points)
    lengths = {axis: len({p.labels[axis] for p in found.points}) for axis in found.axes}
    shape = " × ".join(f"{length} {axis}" for axis, length in lengths.items())
    same = f", {found.repeated} more are the same as others" if found.repeated else ""
    before = f", {finished} of them finished before" if finished else ""
    return facts(
        [
            ("sweep", Text(f"{count(len(found.points), 'run')}: {shape}{same}{before}")),
            ("folder", folder_text(folder)),
        ]
    )


def _run(found: Sweep, folder: Path, console: Console) -> list[str]:
    """Run the points; return what failed, and why."""
    failures: list[str] = []
    names = [
        ", ".join(f"{axis}={p.labels[axis]}" for axis in found.axes) for p in found.points
    ]
    places = [
        f"{n:>{len(str(len(names)))}}/{len(names)}" for n in range(1, len(names) + 1)
    ]
    now: list[str] = []
    with console.status("") as status:

        def running(those: Sequence[int]) -> None:
            now[:] = [names[place] for place in those]
            status.update(
                "\n".join(f"{places[place]}  {names[place]}" for place in those)
            )

        try:
            for place, outcome in run_points(found.points, folder, running):
                if outcome.state == "failed":
                    failures.append(f"{names[place]}: {outcome.reason}")
                if outcome.state != "before":
                    start = f"{places[place]}  {names[place]}"
                    console.print(_line(start, found.points[place], folder, outcome))
        except Interrupted as error:
            where = "; ".join(now) or "between two runs"
            raise Interrupted(
                f"interrupted in {where}; everything is saved. The same command goes on."
            ) from error
    return failures


def _line(start: str, point: Point, folder: Path, outcome: Outcome) -> Text:
    if outcome.state == "failed":
        return Text.assemble(f"{start}  ", ("failed: ", "bold red"), outcome.reason)
    reached = facts_of(read_run(point.folder(folder)))
    merged = number_text(reached.merged, reached.score)
    took = duration_text(outcome.took_s)
    return Text.assemble(f"{start}  merged ", (merged, MERGED), f"  {took}")


def _conclude(
    found: Sweep, folder: Path, failures: Sequence[str], console: Console
) -> None:
    groups, page = write_results(found, folder, failures)
    listed, axes = columns(groups), list(groups[0].labels)
    results = [cells(group, listed) for group in groups]
    heads = list(results[0])
    rows = [{**group.labels, **row} for group, row in zip(groups, results, strict=True)]
    console.print()
    console.print(numbers(axes, heads, rows, _STYLES, console.width))
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    files = [
        ("report", Text(path_text(page), link)),
        ("", f"{path_text(folder / 'results.csv')}, sweep.png"),
    ]
    console.print(facts(files), soft_wrap=True)
    print_json({"page": page, "runs": _points(folder)})


def _points(folder: Path) -> list[dict[str, Any]]:
    """Return what results.csv says of every finished run, numbers as numbers."""
    text = (folder / "results.csv").read_text(encoding="utf-8")
    return [
        {key: _number(cell) for key, cell in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def _number(cell: str) -> Any:
    for read in (int, float):
        try:
            return read(cell)
        except ValueError:
            continue
    return cell or None


# --- side by side -----------------------------------------------------------------

#: Colours by column; others have none.
_COLOURS = {"local mean": LOCAL, "merged": MERGED, BYTES.title: SENT}
#: Settings that follow from others or from the machine and explain no result.
_TRIVIAL = {"log_every", "checkpoint_every", "eval_every", "eval_samples", "threads"}
#: What a run may lack altogether; a setting that others lack says no more than
#: their plug-in.
_PARTS = {"topology", "communication"}


def compare(paths: Sequence[str], out: str) -> None:
    """Print a table of runs and write a page with their curves."""
    comparison = api.compare(*paths).comparison
    console = console_of()
    columns, rows = comparison.numeric, comparison.rows
    console.print(numbers(["run"], columns, rows, _COLOURS, console.width))
    if len(comparison.rows) > 1:
        console.print()
        console.print(_differences(comparison))
    page = write_comparison(comparison, out)
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    noted = [("note", comparison.warning)] if comparison.warning else []
    if any("*" in row["merged"] for row in rows):
        noted.append(("*", "not finished, as of the last evaluation"))
    console.print(facts([*noted, ("page", Text(str(page), link))]), soft_wrap=True)
    values = [facts_of(run).values for run in comparison.runs]
    rows = zip(comparison.rows, values, strict=True)
    differing = comparison.differing
    runs = [
        {"run": row["run"], "settings": {key: row[key] for key in differing}, **found}
        for row, found in rows
    ]
    print_json({"page": page, "note": comparison.warning or None, "runs": runs})


def list_runs(folder: str, wanted: Sequence[str]) -> None:
    """Print a table of the runs below a folder, finished or not.

    Args:
        folder: The folder.
        wanted: ``key=value`` that the configurations of the runs must hold, such as
            ``topology.name=ring``.
    """
    console, place = console_of(), named_folder(folder)
    found: list[tuple[str, RunData]] = []
    unread: list[str] = []
    asked = [word.partition("=") for word in wanted]
    for path in find_runs(place):
        try:
            run = read_run(path)
        except (ConfigError, RunError) as error:
            unread.append(str(error))
            continue
        held = flatten(run.config)
        values = [str(held.get(key, held.get(f"{key}.name"))) for key, _, _ in asked]
        if values == [value for _, _, value in asked]:
            found.append((path.relative_to(place).as_posix(), run))
    known = [facts_of(run) for _, run in found]
    pairs = zip(found, known, strict=True)
    records = [run_record(name, run, one) for (name, run), one in pairs]
    table = make_columns(gap=2)
    for head in ("run", "state", "topology", "communication", "step", "merged"):
        table.add_column(head, overflow="fold")
    for one, record in zip(known, records, strict=True):
        merged = number_text(one.merged, one.score)
        cells = [str(record[head]) for head in list(record)[:-1]]
        table.add_row(*cells, Text(merged, MERGED))
    console.print(table if records else Text(f"no runs in {folder} that fit", QUIET))
    for line in unread:
        console.print(Text(line, QUIET))
    print_json(records)


def serve(folder: str, port: int) -> None:
    """Show the runs below a folder in a browser, until somebody stops it.

    Args:
        folder: The folder.
        port: Where to listen, 0: at any port that is free.
    """
    with Server(named_folder(folder), port) as server:
        console = console_of()
        link = Text(server.address, f"bold link {server.address}")
        console.print(facts([("runs", link), ("", "Ctrl-C ends it.")]), soft_wrap=True)
        print_json({"address": server.address})
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):  # how it ends
            server.serve_forever()


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
        grid.add_row(row["run"], _setting_list(row, differing))
    return grid


def _setting_list(row: Mapping[str, str], columns: Sequence[str]) -> Text:
    given = [
        f"{column.removesuffix('.name')}={row[column]}"
        for column in columns
        if row[column] != ABSENT
    ]
    return Text(", ".join(given) or "nothing")
