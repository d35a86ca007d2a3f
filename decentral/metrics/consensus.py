"""Consensus distance."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.records import Panel, Record
from decentral.registry import plugin

_DISTANCE = Record(
    "consensus/distance", "Root mean square distance of the models from their average",
    "consensus distance", tables=(), moment="before_merge",
    panel=Panel(
        "Consensus distance", "How far the nodes' parameters are from their average.",
        absent="No distance between nodes was logged.", log=True, leads=True,
    ),
)  # fmt: skip


@plugin("metric", records=(_DISTANCE,))
def consensus(snapshot: Snapshot) -> dict[str, float]:
    """Root mean square distance of the models from their average, trainable columns only.

    sqrt((1/N) sum_i |x_i - x|^2), in the units of the parameters.
    """
    mean = snapshot.layout.trainable_view(snapshot.merged_row.unsqueeze(0))
    rows = snapshot.layout.trainable_view(snapshot.rows)
    squared = snapshot.per_node((rows - mean).square().sum(1))
    return {"consensus/distance": squared.mean().sqrt().item()}
