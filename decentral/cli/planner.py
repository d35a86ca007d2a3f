"""What the planner knows: a law, a budget, bounds, and what it says of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decentral.cli.plan_runs import curves_of
from decentral.errors import ConfigError
from decentral.theory import fsl
from decentral.theory.fsl.stages import as_sizes
from decentral.units import parse_amount

#: Shares of the data before the switch of the schedules that the best one is compared with.
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
            raise ConfigError("plan batch: give --source and --capacity, or runs after --from.")
        names = ("source", "capacity", "noise", "lr")
        law = fsl.Law.of(fsl.PowerLaw(*(settings[name] for name in names)))
        nodes = settings["nodes"] or 1
        budget, least = _budget(settings["budget"], nodes), settings["min"]
        return Planner(law, budget, 1 if least is None else least, settings["max"], nodes)

    @staticmethod
    def fitting(settings: Mapping[str, Any], runs: Sequence[str]) -> tuple[Planner, dict[str, Any]]:
        """Plan for the task of runs with constant batches; also return its settings."""
        curves, base = curves_of(runs)
        fitted, nodes = fsl.fit(curves), int(base["nodes"])
        smallest, largest = (size // nodes for size in fitted.batches)
        least = smallest if settings["min"] is None else settings["min"]
        most = largest if settings["max"] is None else settings["max"]
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
            found = shared.met(own, min(self.most or own, own))
        if self.fitted is not None:
            self.fitted.predict(self.together(found))  # refuses to leave what the runs have shown
        return found

    def others(self) -> dict[str, fsl.Stages]:
        """Return what people would try, in samples per node."""
        own, small = self.budget // self.nodes, self.least
        large = min(self.most or _LARGER * small, own)
        share, _ = fsl.two_stage(self.law, self.budget, small * self.nodes, large * self.nodes)
        shares = {f"best switch, {100 * share:.1f} %": share, **_SWITCHES}
        constant = {f"constant {b:,}": fsl.Stages.of((b, own // b)) for b in (small, large)}
        switched = {k: fsl.Stages.switch(own, small, large, x) for k, x in shares.items()}
        return {**constant, **switched}

    def predicted(self, stages: fsl.Stages) -> tuple[float | None, str]:
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
        raise ConfigError(f"budget = {text!r}: the planner counts samples; divide by the context.")
    return amount.count * (nodes if amount.per_node else 1)
