"""Random matchings, time-varying."""

from __future__ import annotations

import networkx as nx
import numpy as np

from decentral import rng
from decentral.registry import plugin


@plugin(
    "topology",
    disconnected="connected only in expectation: a round is one set of pairs",
    doubly_stochastic=True,
)
def random_matchings(n: int, round: int, seed: int) -> nx.Graph[int]:
    """In every round everybody is paired with a random other, and the pairs average.

    E||x - mean||^2 shrinks by 1/2 - 1/(2(n - 1)) a round for even n; for odd n one node rests.
    (Boyd et al., "Randomized gossip algorithms", 2006, with all pairs at once.)

    >>> random_matchings(9, 0, 1).number_of_edges()
    4
    """
    graph = nx.empty_graph(n)
    order = rng.permuted(np.arange(n), n, seed, "matching", round).tolist()
    graph.add_edges_from(zip(order[: n // 2], order[n // 2 :], strict=False))
    return graph
