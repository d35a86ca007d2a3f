"""A constant batch size."""

from __future__ import annotations

from decentral.registry import Count, plugin
from decentral.schedules import Progress


@plugin("batch")
def constant(progress: Progress, *, size: Count = 32) -> int:
    """Use ``size`` samples per node and step."""
    return size
