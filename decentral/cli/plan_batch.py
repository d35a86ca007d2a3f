"""The planner of batches: from a budget and the difficulty of a task to the best
schedule.
"""

from __future__ import annotations

import shlex
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from decentral.cli.output import bars, console_of, print_json, save, ticks
from decentral.cli.words import MERGED, QUIET, facts, make_columns
from decentral.config import read_file
from decentral.errors import ConfigError, shell_word
from decentral.report.reader import RunData, read_run
from decentral.theory import fsl
from decentral.theory.fsl.model import as_sizes
from decentral.units import parse_amount
from decentral.yamltext import dump


def show(
    settings: Mapping[str, Any], runs: Sequence[str], png: str | None, out: str | None
) -> None:
    """Print the best schedule and what else one might do; draw and write it where
    asked.

    Args:
        settings: Budget, bounds and difficulty as the command gives them.
        runs: Runs to fit.
        png: File of the drawing.
        out: File of the configuration.
    """
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
    print_json(
        {
            "easy": planner.law.easy,
            "source": planner.law.source,
            "samples": planner.budget,
            "steps": best.steps,
            "sizes": best.sizes.tolist(),
            "at": best.shares(),
            "predicted_loss": planner.predict(best)[0],
            "others": {name: planner.predict(one)[0] for name, one in others.items()},
        }
    )
    if out:
        _write(out, command, planner, best, base)
        console.print()
        console.print(
            Text(f"written to {out}; train by it: decentral launch {shell_word(out)}")
        )


def _facts(planner: Planner, best: fsl.Stages) -> list[tuple[str, Text | str]]:
    law, fitted = planner.law, planner.fitted
    kind = (
        "easy: grow the batch from the start" if law.easy else "hard: grow the batch late"
    )
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
    table = make_columns(gap=2)
    table.add_column("schedule", no_wrap=True)
    for head in ("steps", "largest", "predicted loss", "above"):
        table.add_column(head, justify="right", no_wrap=True)
    optimum, said = planner.predict(best)
    largest = f"{best.sizes.max():,}"
    table.add_row("planned", f"{best.steps:,}", largest, said, "", style=MERGED)
    for name, stages in others.items():
        loss, said = planner.predict(stages)
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
    """Write a configuration that trains by the plan; ConfigError where it cannot be
    written.
    """
    batch = {"name": "plan", "sizes": best.sizes.tolist(), "at": best.shares()}
    planned = {**base, "data": f"{best.data} samples/node", "batch": batch}
    if planner.nodes > 1:
        planned["nodes"] = planner.nodes
    said = f"# Predicted loss: {planner.predict(best)[1]}, in {best.steps:,} steps.\n"
    try:
        Path(path).write_text(
            f"# Planned by: {command}\n{said}{dump(planned)}", encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror}.") from error


# --- what the planner knows -------------------------------------------------------

#: Shares of the data before the switch of the schedules that the best one is
#: compared with.
_SWITCHES = {"early 25 %": 0.25, "mid 50 %": 0.5, "late 75 %": 0.75, "late 90 %": 0.9}
#: The larger batch of those, relative to the smallest, where nothing bounds it.
_LARGER = 16


@dataclass(frozen=True)
class Planner:
    """A law, a budget of all nodes together, and bounds of the batch of each node."""

    law: fsl.Law
    budget: int
    least: int
    most: int | None
    nodes: int = 1
    fitted: fsl.Fit | None = None

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Planner:
        """Plan for a task that is given by its law."""
        if settings["source"] is None or settings["capacity"] is None:
            raise ConfigError(
                "plan batch: give --source and --capacity, or runs after --from."
            )
        names = ("source", "capacity", "noise", "lr")
        law = fsl.Law.of(fsl.PowerLaw(*(settings[name] for name in names)))
        nodes = settings["nodes"] or 1
        budget, least = _budget(settings["budget"], nodes), settings["min"]
        return Planner(law, budget, 1 if least is None else least, settings["max"], nodes)

    @staticmethod
    def fitting(
        settings: Mapping[str, Any], runs: Sequence[str]
    ) -> tuple[Planner, dict[str, Any]]:
        """Plan for the task of runs with constant batches; also return its
        settings.
        """
        curves, base = curves_of(runs)
        fitted, nodes = fsl.fit(curves), int(base["nodes"])
        smallest, largest = (size // nodes for size in fitted.batches)
        least = smallest if settings["min"] is None else settings["min"]
        most = largest if settings["max"] is None else settings["max"]
        # Before the optimum is looked for: outside of what runs have shown there is
        # none.
        fitted.check(0, least * nodes, most * nodes)
        budget = _budget(settings["budget"], nodes)
        return Planner(fitted.law, budget, least, most, nodes, fitted), base

    def together(self, stages: fsl.Stages) -> fsl.Stages:
        """Return the schedule of one node as that of all together."""
        return fsl.Stages(stages.sizes * self.nodes, stages.counts)

    def best(self) -> fsl.Stages:
        """Return the best schedule, in samples per node."""
        most = None if self.most is None else self.most * self.nodes
        found = fsl.optimal(self.law, self.budget, self.least * self.nodes, most).schedule
        if self.nodes > 1:
            own = self.budget // self.nodes
            shared = fsl.Stages.runs(as_sizes(found.per_step() / self.nodes))
            # Batches of single nodes are whole numbers; rounding must not change
            # the budget.
            found = shared.scale_to_budget(own, min(self.most or own, own))
        # refuses to leave what the runs have shown
        if self.fitted is not None:
            self.fitted.predict(self.together(found))
        return found

    def others(self) -> dict[str, fsl.Stages]:
        """Return what people would try, in samples per node."""
        own, small = self.budget // self.nodes, self.least
        large = min(self.most or _LARGER * small, own)
        share, _ = fsl.two_stage(
            self.law, self.budget, small * self.nodes, large * self.nodes
        )
        shares = {f"best switch, {100 * share:.1f} %": share, **_SWITCHES}
        constant = {
            f"constant {b:,}": fsl.Stages.of((b, own // b)) for b in (small, large)
        }
        switched = {k: fsl.Stages.switch(own, small, large, x) for k, x in shares.items()}
        return {**constant, **switched}

    def predict(self, stages: fsl.Stages) -> tuple[float | None, str]:
        """Return the predicted loss, and in words it and what else is plausible."""
        stages = self.together(stages)
        if self.fitted is None:
            risk = self.law.risk(stages)
            return risk, f"{risk:.4g}"
        try:
            guess = self.fitted.predict(stages)
        except ConfigError:
            return None, "beyond the runs"
        return guess.loss, f"{guess.loss:.4g} ({guess.low:.4g}–{guess.high:.4g})"


def _budget(text: str, nodes: int) -> int:
    try:
        amount = parse_amount(text)
    except ConfigError as error:
        raise ConfigError(f"budget = {text!r}: {error}") from error
    if amount.unit != "samples":
        raise ConfigError(
            f"budget = {text!r}: the planner counts samples, not {amount.unit}; write how many."
        )
    return int(amount.count) * (nodes if amount.per_node else 1)


# --- runs to fit ------------------------------------------------------------------

#: Settings that a planned run must not take over: they follow from the batch and
#: the data.
_FOLLOWING = (
    "steps", "data", "batch", "micro_batch", "eval_every", "log_every", "checkpoint_every", "out",
)  # fmt: skip


def curves_of(paths: Sequence[str]) -> tuple[list[fsl.Curve], dict[str, Any]]:
    """Return the curves of runs, batches of all nodes together, and the settings of
    the last.

    The loss is that of the merged model on the test samples; where there is one
    node, its own.
    """
    found: list[fsl.Curve] = []
    settings: dict[str, Any] = {}
    for path in paths:
        run = read_run(path)
        settings = read_file(Path(path) / "config.yaml")
        steps, losses = run.series("loss/merged")
        size, lr = (_constant(path, run, key) for key in ("batch/size", "learning_rate"))
        # the first model is no step
        points = np.array([steps, losses], dtype=np.float64)[:, 1:]
        found.append(
            fsl.Curve(Path(path).name, int(size) * int(settings["nodes"]), lr, *points)
        )
    kept = {key: value for key, value in settings.items() if key not in _FOLLOWING}
    return found, {key: value for key, value in kept.items() if value is not None}


def _constant(path: str, run: RunData, key: str) -> float:
    """Return the one value that a run had all the time; a budget of data cuts its
    last batch.
    """
    _, values = run.series(key)
    steady = values[:-1] or values
    least, most = min(steady), max(steady)
    if least != most:
        raise ConfigError(
            f"run {path}: its {key} goes from {least:g} to {most:g}; the law is fitted to runs "
            "whose batch and learning rate are constant."
        )
    return least


# --- the schedule, drawn ----------------------------------------------------------

ROWS, MARGIN = 6, 8


def timeline(sizes: Sequence[int], width: int) -> Text:
    """Draw the batch of every step over the data; the largest of each column."""
    columns = max(20, width - MARGIN - 1)
    least, most = min(sizes), max(sizes)
    ends = list(accumulate(sizes))
    edges = [bisect_right(ends, k * ends[-1] / columns) for k in range(columns + 1)]
    tops = [max(sizes[a : max(a + 1, b)]) for a, b in pairwise(edges)]
    drawn = bars([_height(top, least, most) for top in tops], ROWS)
    labels = {0: f"{most:,} ┤", ROWS - 1: f"{least:,} ┤"}
    lines = [
        Text.assemble((labels.get(row, "│").rjust(MARGIN), QUIET), (bar.rstrip(), MERGED))
        for row, bar in enumerate(drawn)
    ]
    lines.append(Text("└".rjust(MARGIN) + "─" * columns, QUIET))
    lines.append(Text(" " * MARGIN + ticks(ends[-1], columns), QUIET))
    lines.append(
        Text(" " * MARGIN + "batch of a node (logarithmic) over samples of a node", QUIET)
    )
    return Text("\n").join(lines)


def _height(size: float, least: int, most: int) -> float:
    """Return the height of a bar: one row for the smallest batch, all for the
    largest.
    """
    share = 0.0 if most == least else log(size / least) / log(most / least)
    return (1 + share * (ROWS - 1)) / ROWS
