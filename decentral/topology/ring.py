"""The ring."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology")
def ring(n: int) -> nx.Graph[int]:
    """Every node talks to the next and the previous one.

    With Metropolis-Hastings weights w = 1/3 and gap = (2/3)(1 - cos(2 pi / n)) for n >= 4.

    >>> sorted(ring(4).edges())
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    return nx.cycle_graph(n)
