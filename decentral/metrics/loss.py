"""Loss."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.registry import plugin


@plugin("metric")
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
