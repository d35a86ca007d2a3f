"""Warm-up, stable, decay."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Progress
from decentral.units import Point


@plugin("learning_rate")
def wsd(progress: Progress, *, decay: Point = Point(0.2, "fraction"), floor: Share = 0.0) -> float:
    """Keep the peak rate, then decay linearly to ``floor`` over the last ``decay`` of the run.

    Together with ``warmup`` this is warm-up-stable-decay (Hu et al., "MiniCPM", 2024).
    """
    if decay.unit == "fraction":
        start = Point(1 - decay.value, "fraction")
    else:
        start = Point(max(0.0, progress.steps - decay.value), "steps")
    return 1 - (1 - floor) * progress.part(start, Point(1.0, "fraction"))
