"""Scores of a task's own."""

from __future__ import annotations

from dataclasses import replace

from decentral.metrics import Snapshot
from decentral.records import Record
from decentral.registry import plugin

_SCORE = Record("score/*_merged", "Score of the task's own, for the average of all models")


@plugin("metric", records=(_SCORE,))
def scores(snapshot: Snapshot) -> dict[str, float]:
    """Mean of every further score that the task defines, for the average of all models."""
    found: dict[str, float] = {}
    for name, judge in snapshot.task.scores.items():
        task = replace(snapshot.task, accuracy=judge)
        one = snapshot.score_merged(task, snapshot.samples)
        assert one.accuracy is not None
        found[f"score/{name}_merged"] = one.accuracy.item()
    return found
