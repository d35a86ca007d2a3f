"""A constant learning rate."""

from __future__ import annotations

from decentral.registry import plugin
from decentral.schedules import Progress


@plugin("learning_rate")
def constant(progress: Progress) -> float:
    """Keep the peak rate."""
    return 1.0
