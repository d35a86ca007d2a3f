"""A few classes per node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.registry import Count, plugin


@plugin("split", needs_classes=True)
def classes(
    labels: NDArray[np.int64], nodes: int, seed: int, *, k: Count = 2
) -> NDArray[np.float64]:
    """Give every node ``k`` classes, dealt so that each class has nearly equally many holders.

    (The "pathological" split of McMahan et al., 2017.) Classes that no node was dealt, when
    nodes x k is less than the number of classes, are divided equally.
    """
    total = int(labels.max()) + 1
    if k > total:
        raise ConfigError(f"split 'classes': k = {k}, but the task has {total} classes.")
    order = rng.generator(seed, "split/classes").permutation(total)
    share = np.zeros((total, nodes))
    for node in range(nodes):
        share[order[[(node * k + place) % total for place in range(k)]], node] = 1.0
    return share
