"""Unequal amounts of the same data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.registry import Positive, plugin


@plugin("split")
def quantity(
    labels: NDArray[np.int64], nodes: int, seed: int, *, alpha: Positive = 1.0
) -> NDArray[np.float64]:
    """Divide every class by the same proportions, drawn once from Dirichlet(alpha)."""
    sizes = rng.generator(seed, "split/quantity").dirichlet(np.full(nodes, alpha))
    return np.tile(sizes, (int(labels.max()) + 1, 1))
