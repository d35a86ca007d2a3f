"""The blocks of a model in the terminal: which parameter is what, who updates it, at which rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from decentral.cli.settings import config_of
from decentral.cli.words import QUIET, brief, columned, console_of, count
from decentral.layout import Entry
from decentral.loop.setup import Setup, prepare
from decentral.optim.base import updater
from decentral.optim.blocks import Blockwise

#: What is written where no block is known.
_UNKNOWN = "unknown"


def show(words: Sequence[str], settings: Mapping[str, str]) -> None:
    """List the parameters of a model, those of repeated layers in one line, with their blocks."""
    setup = prepare(config_of(words, settings))
    blockwise: Blockwise | None = setup.optimizer.common["blockwise"]
    console = console_of()
    console.print(_heading(setup))
    console.print()
    console.print(_table(setup, blockwise or Blockwise()))
    if blockwise is None:
        console.print()
        console.print(Text(_hint(setup), QUIET))


def _heading(setup: Setup) -> Text:
    model = brief(setup.parts["model"]) if "model" in setup.parts else type(setup.model).__name__
    size = count(setup.layout.parameter_count, "parameter")
    return Text.assemble((model, "bold"), f", {size}, by {brief(setup.optimizer)}")


def _hint(setup: Setup) -> str:
    """Say that the rates are not in force, and what they would need to be."""
    strange = [e.name for e in setup.layout.parameters if Blockwise().key(e.name) is None]
    said = "All have the same rate: these would be those of optimizer.blockwise=true"
    if not strange:
        return f"{said}."
    few = f"{count(len(strange), 'parameter')} of no known block"
    return f"{said}, with patterns for {few}, such as '{strange[0]}=1'."


def _table(setup: Setup, blockwise: Blockwise) -> Table:
    table = columned(gap=2)
    table.add_column("block", style="bold", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("updated by", no_wrap=True)
    for (block, name, shape), entries in sorted(_lines(setup, blockwise).items()):
        ratio = blockwise.ratios.get(block)
        table.add_row(
            block,
            name + (f" ({len(entries)})" if len(entries) > 1 else ""),
            "×".join(map(str, shape)) or "scalar",
            "—" if ratio is None else f"{ratio:g} lr",
            updater(setup.optimizer, entries[0].name, entries[0].shape),
        )
    return table


def _lines(
    setup: Setup, blockwise: Blockwise
) -> dict[tuple[str, str, tuple[int, ...]], list[Entry]]:
    """Group the parameters whose names differ in numbers only."""
    found: dict[tuple[str, str, tuple[int, ...]], list[Entry]] = {}
    for entry in setup.layout.parameters:
        block = blockwise.key(entry.name) or _UNKNOWN
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", entry.name)
        found.setdefault((block, name, entry.shape), []).append(entry)
    return found
