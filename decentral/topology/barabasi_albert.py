"""Graphs with hubs."""

from __future__ import annotations

import networkx as nx

from decentral.registry import Count, plugin


@plugin("topology")
def barabasi_albert(n: int, seed: int, *, m: Count = 2) -> nx.Graph[int]:
    """Nodes come one by one and link to m earlier ones, preferring those with many links.

    A few hubs, many leaves: degrees follow a power law. (Barabasi & Albert, "Emergence of scaling
    in random networks", 1999.)

    >>> barabasi_albert(10, 0, m=2).number_of_edges()
    16
    """
    if n <= m:
        return nx.complete_graph(n)
    return nx.barabasi_albert_graph(n, m, seed=seed % 2**32)
