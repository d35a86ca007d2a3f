"""Scores of the local models and of their average: accuracy, loss, a task's own, mergeability."""

from __future__ import annotations

from dataclasses import replace

from decentral.metrics.base import Snapshot
from decentral.records import LOSSES, Record
from decentral.records import scores as score_records
from decentral.registry import plugin


@plugin("metric", records=score_records("accuracy", "test accuracy", unit="%", better="higher"))
def accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Share of test samples that the local models, and their average, classify correctly."""
    local, merged = snapshot.local.accuracy, snapshot.merged.accuracy
    if local is None or merged is None:
        return {}
    return {
        "accuracy/local_mean": local.mean().item(),
        "accuracy/local_min": local.min().item(),
        "accuracy/local_max": local.max().item(),
        "accuracy/merged": merged.item(),
    }


#: The losses of all nodes have one figure with that of training; their range is no part of it.
_SCORES = [
    replace(one, panel=LOSSES, tables=(), draw="none" if one.draw == "band" else "line")
    for one in score_records("loss", "test loss", unit="loss", better="lower")
]
_EXCESS = Record(
    "loss/excess_merged", "Merged test loss above the known optimum", "excess", unit="loss",
    better="lower", draw="none", tables=(),
)  # fmt: skip


@plugin("metric", records=(*_SCORES, _EXCESS))
def loss(snapshot: Snapshot) -> dict[str, float]:
    """Mean test loss of the local models and of their average; excess over a known optimum."""
    local, merged = snapshot.local.loss, snapshot.merged.loss.item()
    found = {
        "loss/local_mean": local.mean().item(),
        "loss/local_min": local.min().item(),
        "loss/local_max": local.max().item(),
        "loss/merged": merged,
    }
    if snapshot.task.best_loss is not None:
        found["loss/excess_merged"] = merged - snapshot.task.best_loss
    return found


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


_GAP = Record(
    "mergeability/gap", "How much better the average is than the models it averages",
    "mergeability gap", better="higher", draw="none", tables=(), moment="before_merge",
)  # fmt: skip
_RATIO = Record(
    "mergeability/ratio", "Score of the average over the mean score of the local models",
    "mergeability ratio", draw="none", tables=(), moment="before_merge",
)  # fmt: skip


@plugin("metric", records=(_GAP, _RATIO))
def mergeability(snapshot: Snapshot) -> dict[str, float]:
    """How much better the average is than the models it averages.

    ``gap`` is the merged minus the local mean accuracy (for tasks without accuracy: local minus
    merged loss, so that positive is good in both); ``ratio`` is merged over local.
    """
    local, merged = snapshot.local, snapshot.merged
    if local.accuracy is not None and merged.accuracy is not None:
        before, after = local.accuracy.mean().item(), merged.accuracy.item()
        gap = after - before
    else:
        before, after = local.loss.mean().item(), merged.loss.item()
        gap = before - after
    found = {"mergeability/gap": gap}
    return found | {"mergeability/ratio": after / before} if before else found
