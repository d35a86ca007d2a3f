"""Gradient norm."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.registry import plugin


@plugin("metric")
def gradient(snapshot: Snapshot) -> dict[str, float]:
    """Mean norm of the last mini-batch gradients as computed, (1/N) sum_i |g_i|."""
    norms = snapshot.layout.trainable_view(snapshot.grads).norm(dim=1)
    return {"gradient/norm": snapshot.per_node(norms).mean().item()}
