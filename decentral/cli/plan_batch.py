"""The planner's words: from a budget and the difficulty of a task to the best batch schedule."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from decentral.cli.batch_drawing import timeline
from decentral.cli.console import console_of
from decentral.cli.planner import Planner
from decentral.cli.png import save
from decentral.cli.words import MERGED, columned, facts
from decentral.errors import ConfigError
from decentral.theory import fsl
from decentral.yamltext import dump


def show(
    settings: Mapping[str, Any], runs: Sequence[str], png: str | None, out: str | None
) -> None:
    """Print the best schedule and what else one might do; draw and write it where asked."""
    base: dict[str, Any] = {}
    if runs:
        planner, base = Planner.fitting(settings, runs)
    else:
        planner = Planner.of(settings)
    best, others = planner.best(), planner.others()
    console, command = console_of(), _command(settings, runs)
    sizes = best.per_step().tolist()
    console.print(facts(_facts(planner, best)))
    console.print()
    console.print(timeline(sizes, console.width))
    console.print()
    console.print(_table(planner, best, others))
    if png:
        from decentral.report import figures

        drawn = {name: stages.per_step().tolist() for name, stages in others.items()}
        save(figures.batches({"planned": sizes, **drawn}), command, png, console)
    if out:
        _write(out, command, planner, best, base)
        console.print()
        console.print(Text(f"written to {out}; train by it: decentral launch {out}"))


def _facts(planner: Planner, best: fsl.Stages) -> list[tuple[str, Text | str]]:
    law, fitted = planner.law, planner.fitted
    kind = "easy: grow the batch from the start" if law.easy else "hard: grow the batch late"
    where = f", s = {law.source:.3g} against 1 - 1/beta = {law.threshold:.3g}"
    rows: list[tuple[str, Text | str]] = [("task", Text.assemble((kind, "bold"), where))]
    if fitted is not None:
        (s, t), (b, c) = fitted.interval("source"), fitted.interval("capacity")
        known = f"s {s:.2g} to {t:.2g}, beta {b:.2g} to {c:.2g}, floor {law.floor:.4g}"
        rows.append(("fit", f"{known}; off by {fitted.error:.1%} (root mean square)"))
    each = f" per node on {planner.nodes} nodes" if planner.nodes > 1 else ""
    first = best.shares()[0] if len(best.sizes) > 1 else 1.0
    batch = f"{best.sizes.min():,} to {best.sizes.max():,}{each}"
    batch += f"; {best.sizes[0]:,} for the first {100 * first:.1f} % of the data"
    data = f"{planner.budget:,} samples in {best.steps:,} steps"
    return [*rows, ("data", data), ("batch", batch)]


def _table(planner: Planner, best: fsl.Stages, others: Mapping[str, fsl.Stages]) -> Table:
    table = columned(gap=2)
    table.add_column("schedule", no_wrap=True)
    for head in ("steps", "largest", "predicted loss", "above"):
        table.add_column(head, justify="right", no_wrap=True)
    optimum, said = planner.predicted(best)
    largest = f"{best.sizes.max():,}"
    table.add_row("planned", f"{best.steps:,}", largest, said, "", style=MERGED)
    for name, stages in others.items():
        loss, said = planner.predicted(stages)
        above = f"{loss / optimum - 1:+.1%}" if loss and optimum else ""
        table.add_row(name, f"{stages.steps:,}", f"{stages.sizes.max():,}", said, above)
    return table


def _command(settings: Mapping[str, Any], runs: Sequence[str]) -> str:
    given = [f"--{key} {value}" for key, value in settings.items() if value is not None]
    fitted = ["--from", *map(shlex.quote, runs)] if runs else []
    return " ".join(["decentral plan batch", *given, *fitted])


def _write(
    path: str, command: str, planner: Planner, best: fsl.Stages, base: Mapping[str, Any]
) -> None:
    """Write a configuration that trains by the plan; ConfigError where it cannot be written."""
    batch = {"name": "plan", "sizes": best.sizes.tolist(), "at": best.shares()}
    planned = {**base, "data": f"{best.data} samples/node", "batch": batch}
    if planner.nodes > 1:
        planned["nodes"] = planner.nodes
    said = f"# Predicted loss: {planner.predicted(best)[1]}, in {best.steps:,} steps.\n"
    try:
        Path(path).write_text(f"# Planned by: {command}\n{said}{dump(planned)}", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror}.") from error
