"""Only every k-th round."""

from __future__ import annotations

from typing import Annotated

from decentral.registry import Bound, Count, Part, plugin
from decentral.schedules import Feedback, Progress
from decentral.schedules.communication import Action


@plugin("communication", example="every(k=2)")
def every(
    progress: Progress,
    feedback: Feedback | None,
    *,
    k: Count,
    schedule: Annotated[Bound, Part("communication")] = "constant",  # pyright: ignore
) -> Action:
    """Follow ``schedule`` at every k-th slot of the round clock, and be silent at the others."""
    return schedule(progress, feedback) if (progress.slot + 1) % k == 0 else 0.0
