"""The torus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology import Sizes
from decentral.topology._square import rows_of


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    rows = settings["rows"]
    return n % rows == 0 if rows else n <= 3 or rows_of(n) > 1


@plugin("topology", sizes=Sizes(_fits, "a product of rows and columns"))
def torus(n: int, *, rows: Count | None = None) -> nx.Graph[int]:
    """A rectangle of nodes whose edges are joined: everybody has four neighbours.

    The rectangle is the squarest one that n fills, or has the given ``rows``; a prime n has none.
    With Metropolis-Hastings weights gap = (2/5)(1 - cos(2 pi / columns)) from 3 rows on.

    >>> sorted(torus(9).neighbors(0))
    [1, 2, 3, 6]
    """
    height = rows or rows_of(n)
    width = n // height
    graph = nx.empty_graph(n)
    for i in range(n):
        row, column = divmod(i, width)
        right, below = row * width + (column + 1) % width, (i + width) % n
        graph.add_edges_from((i, j) for j in (right, below) if j != i)
    return graph
