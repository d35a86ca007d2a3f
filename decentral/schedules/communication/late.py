"""Sparse first, dense late."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress
from decentral.units import Point


@plugin("communication", final_merge=True)
def late(
    progress: Progress,
    feedback: Feedback | None,
    *,
    start: Point = Point(0.9, "fraction"),
    intensity: Share = 0.1,
    then: Share = 1.0,
) -> float:
    """Gossip at ``intensity`` until ``start``, at ``then`` afterwards; one global merge at the end.

    The recommended schedule: sparse communication keeps models mergeable, late communication and
    one merge collect the gain ("On the surprising effectiveness of a single global merging in
    decentralized learning", ICLR 2026).
    """
    return then if progress.reached(start) else intensity
