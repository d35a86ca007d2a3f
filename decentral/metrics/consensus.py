"""Consensus distance."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.registry import plugin


@plugin("metric")
def consensus(snapshot: Snapshot) -> dict[str, float]:
    """Root mean square distance of the models from their average, trainable columns only.

    sqrt((1/N) sum_i |x_i - x|^2), in the units of the parameters.
    """
    mean = snapshot.layout.trainable_view(snapshot.merged_row.unsqueeze(0))
    rows = snapshot.layout.trainable_view(snapshot.rows)
    squared = snapshot.per_node((rows - mean).square().sum(1))
    return {"consensus/distance": squared.mean().sqrt().item()}
