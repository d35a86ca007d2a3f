"""When to communicate, and how much: evaluated once per round of the clock ``local_steps``.

A communication schedule is a function ``(progress, feedback) -> intensity``: 0 is silence, a number
in (0, 1] gossips at that intensity, ``GLOBAL_MERGE`` averages all models. ``feedback`` is None
unless the schedule declares ``closed_loop=True``. Every schedule may end in one global merge, after
what its last slot sends (``final_merge``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import nan
from typing import Final

from decentral.errors import ConfigError
from decentral.registry import Bound, build
from decentral.schedules import Feedback, Progress


class Merge(Enum):
    """The action that replaces every model by the average of all."""

    GLOBAL = "global merge"


GLOBAL_MERGE: Final = Merge.GLOBAL

#: What a schedule decides at one slot.
Action = float | Merge


def common(*, final_merge: bool | None = None) -> None:
    """Settings of every communication schedule: one global merge as the last act of the run."""


@dataclass(frozen=True)
class CommunicationSchedule:
    """A communication rule with its final merge decided."""

    rule: Bound

    @staticmethod
    def make(value: object) -> CommunicationSchedule:
        """Build a schedule from text, a mapping or a function."""
        rule = build("communication", value)
        merge = ends_in_merge(rule)
        return CommunicationSchedule(Bound(rule.plugin, rule.settings, {"final_merge": merge}))

    @property
    def final_merge(self) -> bool:
        """Whether the last act of the run is a global merge."""
        return bool(self.rule.common["final_merge"])

    @cached_property
    def closed_loop(self) -> bool:
        """Whether the schedule reads feedback."""
        parts = [self.rule, *_parts(self.rule)]
        return any(part.plugin.traits.get("closed_loop") for part in parts)

    @property
    def feedback_every(self) -> int:
        """Slots between two refreshes of the feedback record."""
        parts = [self.rule, *_parts(self.rule)]
        return min([int(p.settings.get("feedback_every", 10)) for p in parts])

    def action(self, progress: Progress, feedback: Feedback | None = None) -> Action:
        """Return what happens at this slot, the final merge of the run apart."""
        action = self.rule(progress, feedback)
        if isinstance(action, Merge):
            return action
        try:
            intensity = float(action)
        except (TypeError, ValueError):
            intensity = nan
        if not 0.0 <= intensity <= 1.0:
            raise ConfigError(
                f"communication {self.rule.name!r} gave {action!r} at step {progress.step}; "
                "it must give an intensity within [0, 1] or GLOBAL_MERGE."
            )
        return intensity


def ends_in_merge(rule: Bound) -> bool:
    """Return whether a rule ends in a global merge, asking the schedule it wraps if unsaid."""
    said = rule.common.get("final_merge")
    if said is not None:
        return bool(said)
    inner = _parts(rule)
    return ends_in_merge(inner[-1]) if inner else False


def _parts(rule: Bound) -> list[Bound]:
    """Return the schedules nested in a combinator, in the order of its settings."""
    direct = [value for value in rule.settings.values() if isinstance(value, Bound)]
    return [inner for part in direct for inner in (*_parts(part), part)]
