"""Erdos-Renyi random graphs."""

from __future__ import annotations

from math import log
from typing import Annotated

import networkx as nx
from annotated_types import Gt, Le

from decentral.errors import ConfigError
from decentral.registry import plugin

_ATTEMPTS = 200


@plugin("topology")
def erdos_renyi(
    n: int, seed: int, *, p: Annotated[float, Gt(0), Le(1)] | None = None
) -> nx.Graph[int]:
    """Every pair is linked with probability p, drawn again until the graph is connected.

    ``p`` defaults to min(1, 2 ln n / n), where connected graphs are the rule.

    >>> erdos_renyi(5, 0, p=1.0).number_of_edges()
    10
    """
    chance = min(1.0, 2 * log(max(n, 2)) / n) if p is None else p
    for attempt in range(_ATTEMPTS):
        graph = nx.gnp_random_graph(n, chance, seed=(seed + attempt) % 2**32)
        if nx.is_connected(graph):
            return graph
    raise ConfigError(
        f"topology 'erdos_renyi': no connected graph in {_ATTEMPTS} draws with n = {n}, "
        f"p = {chance:.3g}; raise p above {log(max(n, 2)) / n:.2g}."
    )
