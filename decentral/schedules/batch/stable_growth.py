"""Stable, then growing: the best shape for hard tasks."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from decentral.registry import Count, plugin
from decentral.schedules import Progress
from decentral.schedules.batch._growth import power_growth
from decentral.units import Point


@plugin("batch")
def stable_growth(
    progress: Progress,
    *,
    start: Point = Point(0.8, "fraction"),
    from_: Count = 32,
    to: Count = 256,
    capacity: Annotated[float, Gt(1)] = 2.0,
) -> int:
    """Keep ``from`` until ``start``, then grow to ``to`` as (time to go)^-(1 - 1/(2 capacity)).

    The shape of the best schedule for tasks with source s <= 1 - 1/capacity ("Fast Catch-Up, Late
    Switching", ICLR 2026). `decentral plan batch` computes ``start`` and ``to``.
    """
    return power_growth(progress, start, from_, to, capacity)
