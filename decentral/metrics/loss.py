"""Loss."""

from __future__ import annotations

from dataclasses import replace

from decentral.metrics import Snapshot
from decentral.quantities import LOSSES
from decentral.records import Record, scores
from decentral.registry import plugin

#: The losses of all nodes have one figure with that of training; their range is no part of it.
_SCORES = [
    replace(one, panel=LOSSES, tables=(), draw="none" if one.draw == "band" else "line")
    for one in scores("loss", "test loss", better="lower")
]
_EXCESS = Record(
    "loss/excess_merged", "Merged test loss above the known optimum", "excess", better="lower",
    draw="none", tables=(),
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
