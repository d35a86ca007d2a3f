"""The lollipop."""

from __future__ import annotations

from itertools import combinations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def lollipop(n: int) -> nx.Graph[int]:
    """A complete half with a line of the other half: the slowest graph for a random walk.

    >>> sorted(lollipop(5).edges())
    [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
    """
    head = (n + 1) // 2
    graph = nx.path_graph(n)
    graph.add_edges_from(combinations(range(head), 2))
    return graph
