"""The de Bruijn graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin


def _exact(n: int, settings: Mapping[str, Any]) -> int | None:
    base, hops = settings["k"] + 1, 0
    while base**hops < n or base**hops % n:
        hops += 1
        if hops > n.bit_length():
            return None
    return hops


@plugin("topology", exact_after=_exact)
def de_bruijn(n: int, *, k: Count = 1) -> nx.DiGraph[int]:
    """Node i sends to (k + 1) i + a modulo n, a = 0..k, itself included where it is among them.

    Directed, the same in every round, doubly stochastic for any n; for n a power of k + 1 it
    averages exactly after log n to that base (Nguyen et al., "On graphs with finite-time consensus
    and their use in gradient tracking", 2025). The plain matrix is far from symmetric: its gap is
    measured over log2 n rounds.

    >>> sorted(de_bruijn(8).successors(3))
    [6, 7]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    for i in range(n):
        for a in range(k + 1):
            receiver = ((k + 1) * i + a) % n
            before = graph.get_edge_data(i, receiver, {"weight": 0.0})["weight"]
            graph.add_edge(i, receiver, weight=before + 1 / (k + 1))
    return graph
