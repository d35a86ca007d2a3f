"""Lazy weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.mixing.metropolis import metropolis
from decentral.registry import Share, plugin


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def lazy(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int, *, keep: Share = 0.5
) -> NDArray[np.float64]:
    """Metropolis-Hastings weights times 1 - keep: W = keep I + (1 - keep) W_metropolis.

    With keep = 1/2 no eigenvalue is negative, so that models approach each other without
    overshooting (Boyd et al., "Randomized gossip algorithms", 2006).
    """
    return (1.0 - keep) * metropolis(receivers, senders, nodes)
