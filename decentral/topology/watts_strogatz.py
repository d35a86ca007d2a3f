"""Small worlds."""

from __future__ import annotations

from itertools import count
from typing import Annotated

import networkx as nx
from annotated_types import Ge

from decentral.registry import Share, plugin


@plugin("topology")
def watts_strogatz(
    n: int, seed: int, *, k: Annotated[int, Ge(2)] = 4, p: Share = 0.3
) -> nx.Graph[int]:
    """A ring where everybody knows the k nearest, and each link is rewired with probability p.

    p = 0 is a lattice with a gap of order k^2 / n^2, p near 1 almost a random graph; drawn again
    until connected. (Watts & Strogatz, "Collective dynamics of small-world networks", 1998.)

    >>> watts_strogatz(10, 0, k=4).number_of_edges()
    20
    """
    draws = (nx.watts_strogatz_graph(n, min(k, n), p, seed=(seed + i) % 2**32) for i in count())
    return next(graph for graph in draws if nx.is_connected(graph))
