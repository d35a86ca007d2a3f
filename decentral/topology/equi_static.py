"""EquiTopo, static."""

from __future__ import annotations

from collections import Counter
from itertools import count
from math import ceil, gcd, log

import networkx as nx

from decentral import rng
from decentral.registry import Count, plugin


@plugin("topology")
def equi_static(
    n: int, seed: int, *, hops: Count | None = None, directed: bool = True
) -> nx.Graph[int]:
    """Everybody sends to the nodes that lie the same few random hops further: O(1) rate at log n.

    W is the mean of M matrices, hop u drawn uniformly from 1..n-1: (n-1)/n from i to i + u, 1/n
    kept. ``hops`` is M, by default ceil(ln n); undirected is (W + W') / 2. With M of order ln n the
    gap does not fall with n (Song et al., "Communication-efficient topologies for decentralized
    learning with O(1) consensus rate", NeurIPS 2022: D-EquiStatic and U-EquiStatic).

    >>> {d for _, d in equi_static(16, 0).out_degree()}
    {3}
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph if directed else nx.Graph)
    if n == 1:
        return graph
    chosen = _hops(n, hops or ceil(log(n)), seed)
    share: Counter[int] = Counter()
    for hop in chosen:
        for way in (hop, hop) if directed else (hop, n - hop):
            share[way] += 1
    for hop, times in share.items():
        weight = times * (n - 1) / (2 * n * len(chosen))
        graph.add_edges_from(((i, (i + hop) % n) for i in range(n)), weight=weight)
    return graph


def _hops(n: int, how_many: int, seed: int) -> list[int]:
    """Draw hops that reach everybody; the paper takes the first draw, connected or not."""
    for attempt in count():
        drawn = 1 + rng.integers(n - 1, seed, "hops", attempt, list(range(how_many)))
        if gcd(n, *drawn.tolist()) == 1:
            return drawn.tolist()
    raise AssertionError
