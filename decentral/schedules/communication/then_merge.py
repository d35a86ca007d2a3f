"""A schedule that ends early, in one global merge."""

from __future__ import annotations

from typing import Annotated

from decentral.registry import Bound, Part, plugin
from decentral.schedules import Feedback, Progress
from decentral.schedules.communication import GLOBAL_MERGE, Action
from decentral.units import Point


@plugin("communication", final_merge=False, example="then_merge(schedule=constant(0.2), at=75%)")
def then_merge(
    progress: Progress,
    feedback: Feedback | None,
    *,
    schedule: Annotated[Bound, Part("communication")],
    at: Point = Point(1.0, "fraction"),
) -> Action:
    """Follow ``schedule`` until ``at``; merge all models there, once; then be silent."""
    if not progress.reached(at):
        return schedule(progress, feedback)
    now = progress.slot == 0 or not progress.previous.reached(at)
    return GLOBAL_MERGE if now else 0.0
