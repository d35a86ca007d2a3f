"""Growing all the time: the best shape for easy tasks."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from decentral.registry import Count, plugin
from decentral.schedules import Progress
from decentral.schedules.batch._growth import power_growth
from decentral.units import Point

_START = Point(0.0, "fraction")


@plugin("batch")
def easy_growth(
    progress: Progress,
    *,
    from_: Count = 32,
    to: Count = 256,
    capacity: Annotated[float, Gt(1)] = 2.0,
) -> int:
    """Grow from ``from`` to ``to`` over the whole run as (time to go)^-(1 - 1/(2 capacity)).

    The shape of the best schedule for tasks with source s > 1 - 1/capacity.
    """
    return power_growth(progress, _START, from_, to, capacity)
