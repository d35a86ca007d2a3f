"""What a communication schedule decides, a schedule with its final merge decided,
and who takes part in a round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import nan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build
from decentral.schedules.progress import Feedback, Progress
from decentral.traits import CommunicationTraits, traits_of


class Merge(Enum):
    """The action that replaces every model by the average of all."""

    GLOBAL = "global merge"


GLOBAL_MERGE: Final = Merge.GLOBAL

#: What a schedule decides at one communication step.
Action = float | Merge


@dataclass(frozen=True)
class CommunicationSchedule:
    """A communication rule with its final merge decided."""

    rule: ConfiguredPlugin

    @staticmethod
    def make(value: object) -> CommunicationSchedule:
        """Build a schedule from text, a mapping or a function."""
        rule = build("communication", value)
        own = {"final_merge": ends_in_merge(rule)}
        return CommunicationSchedule(ConfiguredPlugin(rule.plugin, rule.settings, own))

    @property
    def final_merge(self) -> bool:
        """Whether the last action of the run is a global merge."""
        return bool(self.rule.common["final_merge"])

    @cached_property
    def closed_loop(self) -> bool:
        """Whether the schedule reads feedback."""
        return bool(self._listening)

    @cached_property
    def _listening(self) -> list[ConfiguredPlugin]:
        """The schedules, it and those within it, that read feedback."""
        parts = [self.rule, *_parts(self.rule)]
        return [
            part
            for part in parts
            if (traits := traits_of(part, CommunicationTraits)).closed_loop
            or traits.feedback is not None
        ]

    @cached_property
    def wants_consensus(self) -> bool:
        """Whether one of them reads how far the rows are apart."""
        traits = (traits_of(part, CommunicationTraits) for part in self._listening)
        return any(one.closed_loop for one in traits)

    @cached_property
    def own_feedback(self) -> list[ConfiguredPlugin]:
        """Those of them that measure numbers of their own, each name once."""
        own = {
            part.name: part
            for part in self._listening
            if traits_of(part, CommunicationTraits).feedback is not None
        }
        return list(own.values())

    @cached_property
    def feedback_every(self) -> int:
        """Communication steps between two refreshes of the feedback record."""
        # There is one record for all parts: who wants it most often sets the pace.
        return min(
            (int(p.settings.get("feedback_every", 10)) for p in self._listening),
            default=10,
        )

    def action(self, progress: Progress, feedback: Feedback | None = None) -> Action:
        """Return what happens at this communication step, the final merge of the
        run apart.
        """
        if feedback is not None and feedback.measured:
            feedback = feedback.seen_by(self.rule.name)
        action = self.rule.function(progress, feedback)
        # The short way, as a preview of a long run asks for every communication
        # step.
        usual = type(action) is float and 0.0 <= action <= 1.0
        return action if usual else _check_action(self.rule, action, progress)

    def actions(self, places: Iterable[Progress]) -> list[Action]:
        """Return what happens at many communication steps, nothing being measured."""
        return [self.action(place) for place in places]


def decide(
    rule: ConfiguredPlugin, progress: Progress, feedback: Feedback | None
) -> Action:
    """Return what a schedule decides, if that can be done.

    Args:
        rule: The schedule.
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
    """
    if feedback is not None and feedback.measured:
        feedback = feedback.seen_by(rule.name)
    return _check_action(rule, rule(progress, feedback), progress)


def _check_action(rule: ConfiguredPlugin, action: Any, progress: Progress) -> Action:
    """Return what a schedule has decided, if that can be done."""
    if isinstance(action, Merge):
        return action
    try:
        # float("0.5") would do, but a schedule that returns text has a mistake in
        # it.
        intensity = float(action) if not isinstance(action, str) else nan
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        intensity = nan
    if 0.0 <= intensity <= 1.0:
        return intensity
    said = f"{describe(action)} at step {progress.step}"
    raise wrong(rule, said, "an intensity within [0, 1] or GLOBAL_MERGE")


def ends_in_merge(rule: ConfiguredPlugin) -> bool:
    """Return whether a rule ends in a global merge, asking the schedule it wraps if
    unsaid.
    """
    if (said := rule.common.get("final_merge")) is not None:
        return bool(said)
    inner = _parts(rule)
    # The last part, such as `after` of a switch, is in force when the run ends.
    return bool(inner) and ends_in_merge(inner[-1])


def _parts(rule: ConfiguredPlugin) -> list[ConfiguredPlugin]:
    """Return the schedules nested in a combinator, in the order of its settings."""
    direct = [
        value for value in rule.settings.values() if isinstance(value, ConfiguredPlugin)
    ]
    return [inner for part in direct for inner in (*_parts(part), part)]


# --- who takes part ---------------------------------------------------------------


@dataclass(frozen=True)
class Participation:
    """Which nodes take part in a round and compute the steps before it; others
    rest.

    ``amount`` is a share of the nodes, up to 1, or a number of them, from 2 on. As
    many are drawn for every communication step, each as likely as any other.
    """

    amount: float
    seed: int

    def count(self, nodes: int) -> int:
        """Return how many of ``nodes`` take part in a round.

        >>> Participation(0.1, 0).count(16), Participation(4, 0).count(16)
        (2, 4)
        """
        share = self.amount <= 1
        return min(nodes, max(1, round(self.amount * (nodes if share else 1))))

    def drawn(self, ids: NDArray[np.int64], communication_step: int) -> NDArray[np.bool_]:
        """Return which of the nodes ``ids`` take part in a communication step."""
        # By id and by the step, not by the round: the nodes that compute are drawn
        # before anybody knows whether something will be sent.
        lots = rng.uniform(self.seed, "participation", communication_step, ids)
        found = np.zeros(len(ids), dtype=bool)
        found[np.argsort(lots, kind="stable")[: self.count(len(ids))]] = True
        return found
