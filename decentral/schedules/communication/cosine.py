"""Half a cosine wave."""

from __future__ import annotations

from math import cos, pi

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress


@plugin("communication")
def cosine(
    progress: Progress, feedback: Feedback | None, *, first: Share = 0.0, last: Share = 1.0
) -> float:
    """Let the intensity move from ``first`` to ``last`` on half a cosine wave."""
    return first + (last - first) * (1 - cos(pi * progress.fraction)) / 2
