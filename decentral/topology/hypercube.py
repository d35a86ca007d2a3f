"""The hypercube."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin
from decentral.topology import POWER_OF_2


@plugin("topology", sizes=POWER_OF_2)
def hypercube(n: int) -> nx.Graph[int]:
    """Node i talks to the log2 n nodes whose number differs in one bit; n must be a power of 2.

    With Metropolis-Hastings weights the gap is 2 / (1 + log2 n).

    >>> sorted(hypercube(4).edges())
    [(0, 1), (0, 2), (1, 3), (2, 3)]
    """
    graph = nx.empty_graph(n)
    bits = [2**k for k in range((n - 1).bit_length())]
    graph.add_edges_from((i, i ^ bit) for i in range(n) for bit in bits if i < i ^ bit)
    return graph
