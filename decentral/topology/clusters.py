"""Two levels: dense inside, few links between."""

from __future__ import annotations

from itertools import combinations, pairwise

import networkx as nx

from decentral.registry import Count, plugin


@plugin("topology")
def clusters(n: int, *, size: Count = 4, bridges: Count = 1) -> nx.Graph[int]:
    """Complete clusters of ``size`` nodes in a ring, neighbours joined by ``bridges`` links.

    Consecutive nodes form a cluster, as GPUs do in a host or machines on a site; sizes differ by at
    most one where n is no multiple. The j-th bridge leads from the j-th last member of a cluster
    to the j-th member of the next.

    >>> sorted(clusters(4, size=2).edges())
    [(0, 1), (1, 2), (2, 3)]
    """
    count = -(-n // size)
    cuts = [n * c // count for c in range(count + 1)]
    members = [range(low, high) for low, high in pairwise(cuts)]
    graph = nx.empty_graph(n)
    for inside in members:
        graph.add_edges_from(combinations(inside, 2))
    around = zip(members, members[1:] + members[:1] * (count > 2), strict=False)
    for one, other in around:
        graph.add_edges_from(list(zip(reversed(one), other, strict=False))[:bridges])
    return graph
