"""Geometric growth."""

from __future__ import annotations

from decentral.registry import Count, plugin
from decentral.schedules import Progress
from decentral.schedules.batch._growth import share_to_go
from decentral.units import Point

_START = Point(0.0, "fraction")


@plugin("batch")
def geometric(
    progress: Progress, *, from_: Count = 32, to: Count = 256, start: Point = _START
) -> int:
    """Multiply the batch by the same factor in equal parts of the run, from ``from`` to ``to``.

    Before ``start`` it is ``from``.
    """
    return round(from_ * (to / from_) ** (1 - share_to_go(progress, start)))
