"""The line."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def line(n: int) -> nx.Graph[int]:
    """A ring that is cut open: the slowest of the simple graphs.

    With Metropolis-Hastings weights the gap is (2/3)(1 - cos(pi / n)), a quarter of the ring's.

    >>> sorted(line(4).edges())
    [(0, 1), (1, 2), (2, 3)]
    """
    return nx.path_graph(n)
