"""The static exponential graph."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def exponential(n: int) -> nx.DiGraph[int]:
    """Node i sends to i + 2^0, i + 2^1, ..., modulo n: degree ceil(log2 n), directed.

    Uniform weights are doubly stochastic; gap = 2 / (1 + log2 n) when n is a power of 2 (Ying et
    al., "Exponential graph is provably efficient for decentralized deep training", NeurIPS 2021).

    >>> sorted(exponential(4).successors(0))
    [1, 2]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    hops = [2**k for k in range((n - 1).bit_length())]
    graph.add_edges_from((i, (i + hop) % n) for i in range(n) for hop in hops)
    return graph
