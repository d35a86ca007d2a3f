"""The models of a run, merged by several rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table
from rich.text import Text

from decentral import api
from decentral.cli.console import console_of
from decentral.cli.words import LOCAL, MERGED, brief, columned, count
from decentral.loop.afterwards import Afterwards
from decentral.merge.base import merged
from decentral.registry import Bound, build, find, names
from decentral.report.facts import loss_text, percent_text


def merge(run: str, rules: Sequence[str], step: int | None) -> None:
    """Print a table: what every rule makes of the models of a checkpoint."""
    found = api.models_of(Path(run), step)
    console = console_of()
    head = f"{count(len(found.rows), 'model')} of step {found.step:,}"
    console.print(Text.assemble((head, "bold"), f" of {run}"))
    console.print()
    table = columned()
    table.add_column("merge", overflow="fold")
    for column in ("accuracy", "loss", "from the average"):
        table.add_column(column, justify="right")
    _local(table, found)
    chosen = [build("merge", rule) for rule in rules] or _fitting(len(found.rows))
    models, mean = found.models(), found.rows.mean(0)
    for rule in track(chosen, "merging", console=console, transient=True):
        row = merged(rule, models)
        distance = (row - mean)[: models.layout.trainable].norm().item()
        _add(table, found, brief(rule), row, f"{distance:.3g}")
    console.print(table)


def _fitting(nodes: int) -> list[Bound]:
    """Return every rule that takes so many models."""
    found = [find("merge", name) for name in names("merge")]
    return [build("merge", p.name) for p in found if p.traits.get("nodes", nodes) == nodes]


def _local(table: Table, found: Afterwards) -> None:
    """Add what the models can do by themselves."""
    scores = found.local(found.evaluator.test)
    losses, right = scores.loss, scores.accuracy
    accuracy = "" if right is None else percent_text(right.mean().item())
    best = "" if right is None else percent_text(right.max().item())
    table.add_row("the mean model", Text(accuracy, LOCAL), loss_text(losses.mean().item()), "")
    table.add_row("the best model", Text(best, LOCAL), loss_text(losses.min().item()), "")


def _add(table: Table, found: Afterwards, name: str, row: torch.Tensor, distance: str) -> None:
    score = found.test(row)
    accuracy = "" if score.accuracy is None else percent_text(score.accuracy.item())
    table.add_row(name, Text(accuracy, MERGED), loss_text(score.loss.item()), distance)
