"""Metropolis-Hastings weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import plugin


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def metropolis(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + max(d_i, d_j)): symmetric, hence doubly stochastic, from neighbours' degrees.

    Degrees count the links that are on in the round (Xiao & Boyd, "Fast linear iterations for
    distributed averaging", 2004).
    """
    degree = np.bincount(receivers, minlength=nodes)
    return 1.0 / (1.0 + np.maximum(degree[receivers], degree[senders]))
