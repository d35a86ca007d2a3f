"""Finite-time averaging on a hyper-cuboid: nodes have digits, and a round averages along one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import prod

import networkx as nx

#: One round: links with their weights.
Round = list[tuple[int, int, float]]


def factors(n: int, largest: int) -> list[int] | None:
    """Split n into factors of at most ``largest``, ascending; None where a prime is larger.

    >>> factors(24, 4), factors(10, 4)
    ([2, 3, 4], None)
    """
    found: list[int] = []
    for factor in range(largest, 1, -1):
        while n % factor == 0:
            found.append(factor)
            n //= factor
    return sorted(found) if n == 1 else None


def rounds(nodes: Sequence[int], sizes: Sequence[int]) -> list[Round]:
    """Return one round per size: the nodes that differ only in that digit average.

    After all of them, in any order, everybody holds the mean.
    """
    assert prod(sizes) == len(nodes)
    found: list[Round] = []
    stride = 1
    for size in sizes:
        starts = [i for i in range(len(nodes)) if i // stride % size == 0]
        groups = [[nodes[start + digit * stride] for digit in range(size)] for start in starts]
        found.append([(a, b, 1 / size) for group in groups for a, b in combinations(group, 2)])
        stride *= size
    return found


def graph_of(n: int, links: Iterable[tuple[int, int, float]]) -> nx.Graph[int]:
    """Return the graph of one round on nodes 0..n-1, with its weights."""
    graph = nx.empty_graph(n)
    graph.add_weighted_edges_from(links)
    return graph
