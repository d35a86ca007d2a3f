"""The binary tree."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def binary_tree(n: int) -> nx.Graph[int]:
    """Node i talks to its parent (i - 1) // 2 and its children 2i + 1 and 2i + 2.

    The fewest links that connect everybody over a short way: n - 1 links, diameter near 2 log2 n;
    half of the nodes meet at the root, so it mixes slowly.

    >>> sorted(binary_tree(5).edges())
    [(0, 1), (0, 2), (1, 3), (1, 4)]
    """
    graph = nx.empty_graph(n)
    graph.add_edges_from(((i - 1) // 2, i) for i in range(1, n))
    return graph
