"""Dirichlet label skew."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.registry import Positive, plugin


@plugin("split", needs_classes=True)
def dirichlet(
    labels: NDArray[np.int64],
    nodes: int,
    seed: int,
    *,
    alpha: Positive = 0.1,
    by: Literal["node", "class"] = "node",
) -> NDArray[np.float64]:
    """Skew labels by draws from Dirichlet(alpha): 0.1 is very uneven, 100 is nearly IID.

    ``by="node"``: every node draws its class preferences p_i over the classes, and class c is
    divided among the nodes in proportion to p_ic (after Hsu, Qi & Brown, "Measuring the effects of
    non-identical data distribution", 2019). ``by="class"``: every class draws its proportions over
    the nodes (Yurochkin et al., 2019), which makes the amounts of data very uneven as well.
    """
    draw = rng.generator(seed, "split/dirichlet")
    classes = int(labels.max()) + 1
    if by == "class":
        return draw.dirichlet(np.full(nodes, alpha), size=classes)
    return draw.dirichlet(np.full(classes, alpha), size=nodes).T
