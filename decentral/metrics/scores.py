"""Scores of a task's own."""

from __future__ import annotations

from dataclasses import replace

from decentral.metrics import Snapshot, score
from decentral.registry import plugin


@plugin("metric")
def scores(snapshot: Snapshot) -> dict[str, float]:
    """Mean of every further score that the task defines, for the average of all models."""
    row, integers = snapshot.calibrated
    found: dict[str, float] = {}
    for name, judge in snapshot.task.scores.items():
        task = replace(snapshot.task, accuracy=judge)
        one = score(task, snapshot.forward, row.unsqueeze(0), integers, snapshot.samples)
        assert one.accuracy is not None
        found[f"score/{name}_merged"] = one.accuracy.item()
    return found
