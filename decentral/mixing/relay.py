"""Plain sums over neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import plugin


@plugin("weights", keeps="nothing", undirected=True, symmetric=True)
def relay(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1, w_ii = 0: what neighbours say, added up, for the algorithm ``relay_sum``."""
    return np.ones(len(receivers))
