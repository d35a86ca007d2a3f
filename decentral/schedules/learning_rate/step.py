"""Step decay."""

from __future__ import annotations

from decentral.registry import Positive, plugin
from decentral.schedules import Progress
from decentral.units import Point


@plugin("learning_rate")
def step(
    progress: Progress,
    *,
    at: tuple[Point, ...] = (Point(0.5, "fraction"), Point(0.75, "fraction")),
    factor: Positive = 0.1,
) -> float:
    """Multiply the rate by ``factor`` at each of the points ``at``."""
    return factor ** sum(progress.reached(point) for point in at)
