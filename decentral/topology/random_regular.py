"""Random regular graphs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology import Sizes


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    degree = settings["degree"]
    return n <= degree + 1 or (n * degree % 2 == 0 and degree > 1)


@plugin("topology", sizes=Sizes(_fits, "even where the degree is odd"))
def random_regular(n: int, seed: int, *, degree: Count = 4) -> nx.Graph[int]:
    """Everybody has the same number of peers, drawn at random until the graph is connected.

    An expander with high probability: with weights 1/(1 + d) the gap tends to
    1 - (1 + 2 sqrt(d - 1)) / (1 + d) (Friedman, "A proof of Alon's second eigenvalue conjecture",
    2008). Nodes too few for the degree are all linked.

    >>> {d for _, d in random_regular(10, 0, degree=3).degree()}
    {3}
    """
    if n <= degree + 1:
        return nx.complete_graph(n)
    draws = (nx.random_regular_graph(degree, n, seed=(seed + i) % 2**32) for i in count())
    return next(graph for graph in draws if nx.is_connected(graph))
