"""The barbell."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

import networkx as nx
from annotated_types import Ge

from decentral.registry import plugin


@plugin("topology")
def barbell(n: int, *, bar: Annotated[int, Ge(0)] = 0) -> nx.Graph[int]:
    """Two complete halves, joined by one link or by a bar of nodes: the worst bottleneck.

    ``bar`` nodes at most lie between the halves; the gap falls like 1 / n^2 at least.

    >>> sorted(barbell(5).edges())
    [(0, 1), (1, 2), (2, 3), (2, 4), (3, 4)]
    """
    between = min(bar, max(0, n - 2))
    left = (n - between) // 2
    graph = nx.empty_graph(n)
    graph.add_edges_from(combinations(range(left), 2))
    graph.add_edges_from(combinations(range(left + between, n), 2))
    graph.add_edges_from((i, i + 1) for i in range(max(0, left - 1), min(n - 1, left + between)))
    return graph
