"""Dense first, sparse later."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress
from decentral.units import Point


@plugin("communication")
def early(
    progress: Progress,
    feedback: Feedback | None,
    *,
    stop: Point = Point(0.1, "fraction"),
    first: Share = 1.0,
    intensity: Share = 0.1,
) -> float:
    """Gossip at ``first`` until ``stop``, at ``intensity`` afterwards: the mirror image of late."""
    return intensity if progress.reached(stop) else first
