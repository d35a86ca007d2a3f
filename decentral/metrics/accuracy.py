"""Accuracy."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.records import scores
from decentral.registry import plugin


@plugin("metric", records=scores("accuracy", "test accuracy", unit="%", better="higher"))
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
