"""The grid."""

from __future__ import annotations

from math import isqrt

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology._square import rows_of


@plugin("topology")
def grid(n: int, *, rows: Count | None = None) -> nx.Graph[int]:
    """A rectangle of nodes, each with its neighbours above, below, left and right.

    The rectangle is the squarest one that n fills; where that is more than four times as long as
    wide, the last row stays incomplete. ``rows`` asks for another shape.

    >>> sorted(grid(6).edges())
    [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    """
    squarest = rows_of(n) if 4 * rows_of(n) ** 2 >= n else isqrt(n)
    width = -(-n // min(n, rows or squarest))
    graph = nx.empty_graph(n)
    graph.add_edges_from((i, i + 1) for i in range(n - 1) if (i + 1) % width)
    graph.add_edges_from((i, i + width) for i in range(n - width))
    return graph
