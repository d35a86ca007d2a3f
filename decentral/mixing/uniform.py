"""Uniform weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import plugin


@plugin("weights")
def uniform(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_i): the plain mean of what a node holds and hears.

    Doubly stochastic only on regular graphs; elsewhere the nodes agree on a degree-weighted mean.
    """
    degree = np.bincount(receivers, minlength=nodes)
    return np.reciprocal(1.0 + degree[receivers].astype(np.float64))
