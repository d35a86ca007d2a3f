"""Weights by what a node gives away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import plugin


@plugin("weights", keeps="unsent")
def push(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + out-degree of j): columns sum to one, from what a sender knows of itself.

    Sums are kept on any directed graph, but averages only by the algorithm ``push_sum`` (Kempe,
    Dobra & Gehrke, "Gossip-based computation of aggregate information", 2003).
    """
    degree = np.bincount(senders, minlength=nodes)
    return np.reciprocal(1.0 + degree[senders].astype(np.float64))
