"""One schedule, then another."""

from __future__ import annotations

from typing import Annotated

from decentral.registry import Bound, Part, plugin
from decentral.schedules import Feedback, Progress
from decentral.schedules.communication import Action
from decentral.units import Point


@plugin("communication", example="switch(before=constant(0.2), after=linear, at=50%)")
def switch(
    progress: Progress,
    feedback: Feedback | None,
    *,
    before: Annotated[Bound, Part("communication")],
    after: Annotated[Bound, Part("communication")],
    at: Point,
) -> Action:
    """Follow ``before`` until the point ``at``, then ``after``."""
    return (after if progress.reached(at) else before)(progress, feedback)
