"""The star."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def star(n: int) -> nx.Graph[int]:
    """Node 0 talks to every other one; with Metropolis-Hastings weights the gap is 1/n.

    >>> sorted(star(3).edges())
    [(0, 1), (0, 2)]
    """
    return nx.star_graph(n - 1)
