"""A small batch, then a large one, late."""

from __future__ import annotations

from decentral.registry import Count, plugin
from decentral.schedules import Progress
from decentral.units import Point


@plugin("batch")
def late_switch(
    progress: Progress, *, at: Point = Point(0.75, "fraction"), from_: Count = 32, to: Count = 256
) -> int:
    """Use batches of ``from`` until ``at``, then of ``to``: best on hard tasks.

    After the switch the loss catches up fast with that of a run whose batch was always large, and
    the steps before were many (Wang et al., "Fast Catch-Up, Late Switching", ICLR 2026).
    """
    return to if progress.reached(at) else from_
