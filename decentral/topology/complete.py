"""The complete graph."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


@plugin("topology", exact_after=lambda n, settings: 1)
def complete(n: int) -> nx.Graph[int]:
    """Every node talks to every other one; one full round averages exactly.

    >>> complete(4).number_of_edges()
    6
    """
    return nx.complete_graph(n)
