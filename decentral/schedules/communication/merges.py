"""Global merges only."""

from __future__ import annotations

from decentral.registry import plugin
from decentral.schedules import Feedback, Progress
from decentral.schedules.communication import GLOBAL_MERGE, Action


@plugin("communication")
def merges(progress: Progress, feedback: Feedback | None) -> Action:
    """Average all models after every ``local_steps`` steps, by an all-reduce: 2 (N - 1) rows.

    A last round that is cut short is not averaged; ``final_merge`` ends it in one merge.
    """
    return GLOBAL_MERGE if progress.step % progress.local_steps == 0 else 0.0
