"""Dirichlet label skew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.registry import Positive, plugin


@plugin("split")
def dirichlet(
    labels: NDArray[np.int64], nodes: int, seed: int, *, alpha: Positive = 0.1
) -> NDArray[np.float64]:
    """Divide each class by proportions drawn from Dirichlet(alpha): 0.1 is very uneven, 100 is IID.

    (Hsu, Qi & Brown, "Measuring the effects of non-identical data distribution", 2019.)
    """
    draw = rng.generator(seed, "split/dirichlet")
    return draw.dirichlet(np.full(nodes, alpha), size=int(labels.max()) + 1)
