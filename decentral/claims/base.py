"""Claims: what a paper says, as an experiment that runs and can fail.

A claim is a function ``(lab, seed) -> Findings``: one honest, small repetition of a
result. The driver calls it once per seed. What is said and expected is written down
before anything is measured, as ``traits.ClaimTraits``. Keyword-only parameters are
its sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral import api
from decentral.config import make_config
from decentral.sweeps.points import digest
from decentral.traits import Expectation

HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not reproduce at this size"
#: What the seeds leave open, and what was tried where it could not be seen.
OPEN, UNFIT = "not separable at this size", "not fit to judge at this size"


def verdict(expected: Sequence[Expectation], figures: dict[str, list[float]]) -> str:
    """Judge measured figures, a list of one value per seed each, by what was expected of
    them.

    A condition that is not met leaves nothing to judge. The first expectation that is
    evidence is the heart of a claim; of the others half must be met. Where those that
    are open could still make up that half, so is the claim.

    >>> heart, rest = Expectation("a", "", low=0), Expectation("b", "", low=0)
    >>> verdict([heart, rest, rest], {"a": [1.0], "b": [-1.0]})
    'does not reproduce at this size'
    >>> verdict([heart, rest, heart], {"a": [1.0], "b": [-1.0]})
    'holds in part'
    """
    judged = [
        (one, one.judge(values))
        for one in expected
        if (values := figures.get(one.figure, [])) or not one.optional
    ]
    if not all(met for one, met in judged if one.role == "condition"):
        return UNFIT
    first, *others = [met for one, met in judged if one.role == "evidence"]
    if first is None:
        return OPEN
    met, lost = (sum(one is answer for one in others) for answer in (True, False))
    if not first or 2 * lost > len(others):
        return FAILS
    if 2 * met < len(others):
        return OPEN
    return HOLDS if met == len(others) else PARTLY


def heart(expected: Sequence[Expectation]) -> Expectation:
    """Return the expectation by which a claim stands or falls.

    >>> known = Expectation("a", "", low=0, role="by design")
    >>> heart([known, Expectation("b", "", low=0)]).figure
    'b'
    """
    return next(one for one in expected if one.role == "evidence")


@dataclass(frozen=True)
class Curve:
    """One line of a panel: the values ``y`` at ``x``; curves of one label are one,
    over seeds.
    """

    label: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Panel:
    """One drawing of a claim: axes and the curves in them."""

    title: str
    x: str
    y: str
    curves: list[Curve]
    log: str = ""  # "x", "y" or "xy"


@dataclass(frozen=True)
class Findings:
    """What one seed gave: named figures, and the curves behind them."""

    figures: dict[str, float]
    panels: list[Panel] = field(default_factory=list[Panel])


def series(run: Any, label: str, key: str) -> Curve:
    """Return a logged number over steps; of a step that ends in a merge, the one
    before it.

    Args:
        run: A run of the claim.
        label: Name of the curve.
        key: Key of the number.
    """
    found: dict[int, float] = {}
    for record in run.rows:
        if record.get(key) is not None:
            # The first of a step is the one before a merge.
            found.setdefault(record["step"], record[key])
    return Curve(label, list(map(float, found)), list(found.values()))


# --- where runs are made ----------------------------------------------------------


class Lab:
    """Makes runs for a claim in ``folder``, or finds them there if an earlier try
    has made them.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], device: str = "auto"
    ) -> None:
        """Work in ``folder``; ``say`` is told what is being done."""
        self.folder, self.say, self.device = folder, say, device
        self.spared_s = 0.0  # what the runs that were found took when they were made

    def run(self, label: str, **settings: Any) -> api.Run:
        """Return the finished run with these settings: found, gone on with, or
        made.

        It has no report; `decentral report` draws one.
        """
        config = make_config({"device": self.device, **settings})
        path = self.folder / "runs" / f"{label.replace(' ', '-')}-{digest(config)}"
        found = api.Run(path)
        if (path / "summary.json").exists():
            self.spared_s += found.summary["counters"]["time/wall_s"]
            return found
        self.say(label)
        api.begin_run(config, path).run(lambda record: None)
        return found
