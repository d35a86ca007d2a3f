"""Geometric growth."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le

from decentral.registry import plugin
from decentral.schedules import Feedback, Progress

_Intensity = Annotated[float, Gt(0), Le(1)]


@plugin("communication")
def exponential(
    progress: Progress,
    feedback: Feedback | None,
    *,
    first: _Intensity = 0.01,
    last: _Intensity = 1.0,
) -> float:
    """Let the intensity move geometrically: first^(1 - t) last^t at fraction t of the run."""
    return min(1.0, first ** (1 - progress.fraction) * last**progress.fraction)
