"""Models in the terminal: their blocks; and of a run that was trained, merge,
analyze, export.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from decentral import api
from decentral.cli.output import console_of, print_json
from decentral.cli.settings import config_of
from decentral.cli.words import (
    LOCAL,
    MERGED,
    QUIET,
    brief,
    count,
    facts,
    make_columns,
    path_text,
)
from decentral.layout import Entry
from decentral.limits import named_folder
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup
from decentral.optim.base import updater
from decentral.optim.blocks import Blockwise
from decentral.optim.matrix import output_layer
from decentral.records import Record
from decentral.report import studies
from decentral.report.facts import number_text

# --- blocks -----------------------------------------------------------------------


#: What is written where no block is known.
_UNKNOWN = "unknown"


def blocks(
    words: Sequence[str], settings: Mapping[str, str], trust: Sequence[str] = ()
) -> None:
    """List the parameters of a model, those of repeated layers in one line, with
    their blocks.

    Args:
        words: A file, and ``key=value``.
        settings: Options by the setting they stand for.
        trust: Digests of code that the file may name.
    """
    setup = prepare(config_of(words, settings, trust))
    blockwise: Blockwise | None = setup.optimizer.common["blockwise"]
    console = console_of()
    console.print(_block_heading(setup))
    console.print()
    console.print(_block_table(setup, blockwise or Blockwise()))
    if blockwise is None:
        console.print()
        console.print(Text(_block_hint(setup), QUIET))
    print_json(_block_records(setup, blockwise or Blockwise()))


def _block_records(setup: Setup, blockwise: Blockwise) -> list[dict[str, Any]]:
    """Return the parameters as other programs read them."""
    output = output_layer([(e.name, e.shape) for e in setup.layout.parameters])
    return [
        {
            "parameter": one.name,
            "shape": one.shape,
            "block": blockwise.key(one.name),
            "ratio": blockwise.ratios.get(blockwise.key(one.name) or ""),
            "updated_by": updater(setup.optimizer, one.name, one.shape, output),
        }
        for one in setup.layout.parameters
    ]


def _block_heading(setup: Setup) -> Text:
    model = (
        brief(setup.parts["model"])
        if "model" in setup.parts
        else type(setup.model).__name__
    )
    size = count(setup.layout.parameter_count, "parameter")
    return Text.assemble((model, "bold"), f", {size}, by {brief(setup.optimizer)}")


def _block_hint(setup: Setup) -> str:
    """Say that the rates are not in force, and what they would need to be."""
    strange = [e.name for e in setup.layout.parameters if Blockwise().key(e.name) is None]
    said = "All have the same rate: these would be those of optimizer.blockwise=true"
    if not strange:
        return f"{said}."
    few = f"{count(len(strange), 'parameter')} of no known block"
    return f"{said}, with patterns for {few}, such as '{strange[0]}=1'."


def _block_table(setup: Setup, blockwise: Blockwise) -> Table:
    table = make_columns(gap=2)
    table.add_column("block", style="bold", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("updated by", no_wrap=True)
    output = output_layer([(e.name, e.shape) for e in setup.layout.parameters])
    for (block, name, shape), entries in sorted(_block_lines(setup, blockwise).items()):
        ratio = blockwise.ratios.get(block)
        table.add_row(
            block,
            name + (f" ({len(entries)})" if len(entries) > 1 else ""),
            "×".join(map(str, shape)) or "scalar",
            "—" if ratio is None else f"{ratio:g} lr",
            _updated_by(setup, entries, output),
        )
    return table


def _updated_by(setup: Setup, entries: Sequence[Entry], output: str | None) -> str:
    """Say what updates parameters whose names differ in numbers; one may be the
    output layer.
    """
    rule = setup.optimizer
    found = [updater(rule, one.name, one.shape, output) for one in entries]
    return ", ".join(dict.fromkeys(found))


def _block_lines(
    setup: Setup, blockwise: Blockwise
) -> dict[tuple[str, str, tuple[int, ...]], list[Entry]]:
    """Group the parameters whose names differ in numbers only."""
    found: dict[tuple[str, str, tuple[int, ...]], list[Entry]] = {}
    for entry in setup.layout.parameters:
        block = blockwise.key(entry.name) or _UNKNOWN
        # A number between dots counts repeated layers; one inside a name, as fc1,
        # is its own.
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", entry.name)
        found.setdefault((block, name, entry.shape), []).append(entry)
    return found


# --- merge, analyze, export -------------------------------------------------------


def merge(
    run: str, rules: Sequence[str], step: int | None, trust: Sequence[str] = ()
) -> None:
    """Print a table: what every rule makes of the models of a checkpoint.

    Args:
        run: Folder of the run.
        rules: Merging rules; none: all.
        step: Step of the checkpoint; none: the newest in which models differ.
        trust: Digests of code that the run may name.
    """
    console = console_of()
    with console.status("reading the run") as status:

        def tell(what: str, done: int, of: int) -> None:
            status.update(f"merging by {what}, {done + 1} of {of}")

        asked: Any = list(rules) or None
        found = api.merge(Path(run), asked, at=step, watch=tell, trust=trust)
    head = f"{count(found.nodes, 'model')} of step {found.step:,}"
    console.print(Text.assemble((head, "bold"), f" of {run}"))
    console.print()
    table = make_columns()
    table.add_column("merge", overflow="fold")
    for column in (*(one.of_merge for one in found.shown), "from the average"):
        table.add_column(column, justify="right")
    for row in found[:2]:
        numbers = [row[one.of_merge] for one in found.shown]
        table.add_row(row["merge"], *_numbers(numbers, found.shown, LOCAL), "")
    for one in found.merged:
        numbers = [one.scores.get(record.key) for record in found.shown]
        cells = _numbers(numbers, found.shown, MERGED)
        table.add_row(brief(one.rule), *cells, f"{one.distance:.3g}")
    console.print(table)
    print_json({"run": run, "step": found.step, "merges": list(found)})


def _numbers(
    values: Sequence[float | None], records: Sequence[Record], style: str
) -> Iterator[Text]:
    """Yield values as their records write them, the first, which judges, in a
    style.

    Args:
        values: The values, None where there is none.
        records: What is known of each.
        style: Style of the first.
    """
    for place, (value, record) in enumerate(zip(values, records, strict=True)):
        yield Text(number_text(value, record), "" if place else style)


#: Layers that are listed in the terminal; the page has all.
_LAYERS = 12


def analyze(run: str, out: str | None, extent: dict[str, Any]) -> None:
    """Print what was measured of a run's models, and write it as JSON, page and
    picture.

    Args:
        run: Folder of the run.
        out: Folder of the page; none: the run's.
        extent: How many pairs, points and samples, and what code the run may name.
    """
    folder = named_folder(run if out is None else out)
    console = console_of()
    record = _measure(run, folder, extent, console)
    page = folder / "analysis.html"
    head = f"{count(record['nodes'], 'model')} of step {record['step']:,}"
    console.print(Text.assemble((head, "bold"), f" of {run}"))
    for heads, rows in (
        (studies.score_heads(record), studies.score_rows(record)),
        (studies.LINES, studies.line_rows(record)),
        (studies.LAYERS, studies.layer_rows(record)),
        (studies.OTHERS, studies.other_rows(record)),
    ):
        console.print()
        _print(console, heads, list(rows))
    console.print()
    link = f"bold link {page.resolve().as_uri()}"
    files = [
        ("page", Text(path_text(page), link)),
        ("", "analysis.json, analysis.png beside it"),
    ]
    console.print(facts(files), soft_wrap=True)
    print_json(record)


def _measure(
    run: str, folder: Path, extent: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Analyze a run into a folder, with a bar that says what is being measured.

    Args:
        run: Folder of the run.
        folder: Where page and picture go.
        extent: How many pairs, points and samples.
        console: Where to show the bar.
    """
    columns = (
        TextColumn("{task.description}", style=QUIET),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("reading the run", total=None)

        def watch(what: str, done: int, of: int) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        return api.analyze(Path(run), out=folder, watch=watch, **extent)


def _print(console: Console, heads: Sequence[str], rows: Sequence[studies.Cells]) -> None:
    table = make_columns(gap=2)
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows[:_LAYERS]:
        table.add_row(*_colour_row(row))
    console.print(table)
    if len(rows) > _LAYERS:
        console.print(Text(f"{len(rows) - _LAYERS} more on the page", QUIET))


def _colour_row(row: Iterable[str]) -> list[Text]:
    label, *values = row
    style = MERGED if "merged" in label else LOCAL if label == "the mean model" else ""
    return [Text(label), Text(values[0], style), *map(Text, values[1:])]


def export(
    run: str, out: str, rule: str | None, nodes: bool, trust: Sequence[str] = ()
) -> None:
    """Write the model and print the lines that load it.

    Args:
        run: Folder of the run.
        out: A new folder.
        rule: Merging rule; none: the merge of the run.
        nodes: Whether every node's model is written, too.
        trust: Digests of code that the run may name.
    """
    console = console_of()
    with console.status("tracing the model"):
        place = named_folder(out)
        lines = api.export(Path(run), place, method=rule, nodes=nodes, trust=trust)
    console.print(Text(f"written into {out}; in that folder it loads"), soft_wrap=True)
    for needs, line in lines.items():
        console.print(Text(f"with {needs}:", QUIET))
        console.print(Text(f"  {line}"), soft_wrap=True)
