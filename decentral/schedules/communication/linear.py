"""A straight line."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress


@plugin("communication")
def linear(
    progress: Progress, feedback: Feedback | None, *, first: Share = 0.0, last: Share = 1.0
) -> float:
    """Let the intensity move on a straight line from ``first`` to ``last``."""
    return first + (last - first) * progress.fraction
