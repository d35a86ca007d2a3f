"""Max-degree weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import plugin


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def max_degree(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_max): every link weighs the same; slow where degrees differ much.

    d_max is the largest degree of the round (Xiao & Boyd, "Fast linear iterations for distributed
    averaging", 2004).
    """
    largest = np.bincount(receivers, minlength=nodes).max()
    return np.full(len(receivers), 1.0 / (1.0 + largest))
