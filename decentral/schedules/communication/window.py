"""A window of dense communication."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress
from decentral.units import Point


@plugin("communication", example="window(start=40%)")
def window(
    progress: Progress,
    feedback: Feedback | None,
    *,
    start: Point,
    width: Point = Point(0.1, "fraction"),
    intensity: Share = 1.0,
    outside: Share = 0.0,
) -> float:
    """Gossip at ``intensity`` from ``start`` for ``width`` of the run, at ``outside`` elsewhere."""
    begin = start.in_steps(progress.steps)
    end = begin + width.in_steps(progress.steps)
    here = progress.fraction * progress.steps
    return intensity if begin - 1e-9 <= here < end - 1e-9 else outside
