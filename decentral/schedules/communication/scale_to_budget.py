"""A schedule scaled so that it spends a given budget."""

from __future__ import annotations

from typing import Annotated

from decentral.errors import ConfigError
from decentral.registry import Bound, Part, Positive, plugin
from decentral.schedules import Feedback, Progress
from decentral.schedules.communication import Action, Merge


@plugin("communication", budgeted=True, example="scale_to_budget(schedule=late, budget=2%)")
def scale_to_budget(
    progress: Progress,
    feedback: Feedback | None,
    *,
    schedule: Annotated[Bound, Part("communication")],
    budget: str | float,
    factor: Positive | None = None,
) -> Action:
    """Multiply the intensities of ``schedule`` by ``factor``, clipped to 1.

    ``budget`` is the expected logical bytes, final merge included: ``2%`` of those of all-reduce at
    every step, or ``2MB/node``. ``factor`` is solved for before the run and written to its resolved
    configuration. Schedules are compared fairly at equal budget.
    """
    if factor is None:
        raise ConfigError(
            "communication 'scale_to_budget' must be outermost: "
            "its factor is solved for the whole run."
        )
    action = schedule(progress, feedback)
    return action if isinstance(action, Merge) else min(1.0, factor * action)
