"""Gradient norm."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.records import Record
from decentral.registry import plugin

_NORM = Record(
    "gradient/norm", "Mean norm of the last mini-batch gradients", "gradient norm", draw="none",
    tables=(), moment="before_merge",
)  # fmt: skip


@plugin("metric", records=(_NORM,))
def gradient(snapshot: Snapshot) -> dict[str, float]:
    """Mean norm of the last mini-batch gradients as computed, (1/N) sum_i |g_i|."""
    norms = snapshot.layout.trainable_view(snapshot.grads).norm(dim=1)
    return {"gradient/norm": snapshot.per_node(norms).mean().item()}
