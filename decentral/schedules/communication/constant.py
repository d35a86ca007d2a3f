"""The same intensity throughout."""

from __future__ import annotations

from decentral.registry import Share, plugin
from decentral.schedules import Feedback, Progress


@plugin("communication")
def constant(progress: Progress, feedback: Feedback | None, *, intensity: Share = 1.0) -> float:
    """Gossip at one intensity from the first round to the last."""
    return intensity
