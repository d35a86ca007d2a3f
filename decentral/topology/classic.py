"""Classic graphs: a ring, a line, a star, grids, trees, cliques and what joins
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, pairwise
from math import isqrt
from typing import Annotated, Any

import networkx as nx
from annotated_types import Ge

from decentral.registry import Count, plugin
from decentral.topology.base import POWER_OF_2, Sizes


def rows_of(n: int) -> int:
    """Return the largest divisor of n up to its square root: the rows of the
    squarest rectangle.

    >>> [rows_of(n) for n in (12, 16, 13)]
    [3, 4, 1]
    """
    return next(rows for rows in range(isqrt(n), 0, -1) if n % rows == 0)


@plugin("topology")
def line(n: int) -> nx.Graph[int]:
    """A ring that is cut open: the slowest of the simple graphs.

    With Metropolis-Hastings weights the gap is (2/3)(1 - cos(pi / n)), a quarter of
    the ring's.

    >>> sorted(line(4).edges())
    [(0, 1), (1, 2), (2, 3)]
    """
    return nx.path_graph(n)


@plugin("topology")
def ring(n: int) -> nx.Graph[int]:
    """Every node exchanges with the next and the previous one.

    With Metropolis-Hastings weights w = 1/3 and gap = (2/3)(1 - cos(2 pi / n)) for
    n >= 4.

    >>> sorted(ring(4).edges())
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    return nx.cycle_graph(n)


@plugin("topology")
def star(n: int) -> nx.Graph[int]:
    """Node 0 exchanges with every other one; with Metropolis-Hastings weights the
    gap is 1/n.

    >>> sorted(star(3).edges())
    [(0, 1), (0, 2)]
    """
    return nx.star_graph(n - 1)


@plugin("topology", exact_after=lambda n, settings: 1)
def complete(n: int) -> nx.Graph[int]:
    """Every node exchanges with every other one; one full round averages exactly.

    >>> complete(4).number_of_edges()
    6
    """
    return nx.complete_graph(n)


@plugin("topology")
def grid(n: int, *, rows: Count | None = None) -> nx.Graph[int]:
    """A rectangle of nodes, each with its neighbours above, below, left and right.

    The rectangle is the squarest one that n fills; where that is more than four
    times as long as wide, the last row stays incomplete. ``rows`` asks for another
    shape.

    Args:
        n: Number of nodes.
        rows: Rows of the rectangle; none: the squarest that n fills.

    >>> sorted(grid(6).edges())
    [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    """
    # The best factor of a prime is 1, and its grid would be a line.
    squarest = rows_of(n) if 4 * rows_of(n) ** 2 >= n else isqrt(n)
    width = -(-n // min(n, rows or squarest))
    graph = nx.empty_graph(n)
    graph.add_edges_from((i, i + 1) for i in range(n - 1) if (i + 1) % width)
    graph.add_edges_from((i, i + width) for i in range(n - width))
    return graph


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    rows = settings["rows"]
    return n % rows == 0 if rows else n <= 3 or rows_of(n) > 1


@plugin("topology", sizes=Sizes(_fits, "a product of rows and columns"))
def torus(n: int, *, rows: Count | None = None) -> nx.Graph[int]:
    """A rectangle of nodes whose edges are joined: everybody has four neighbours.

    The rectangle is the squarest one that n fills, or has the given ``rows``; a
    prime n has none. With Metropolis-Hastings weights gap = (2/5)(1 - cos(2 pi /
    columns)) from 3 rows on.

    Args:
        n: Number of nodes.
        rows: Rows of the rectangle; none: the squarest that n fills.

    >>> sorted(torus(9).neighbors(0))
    [1, 2, 3, 6]
    """
    height = rows or rows_of(n)
    width = n // height
    graph = nx.empty_graph(n)
    for i in range(n):
        row, column = divmod(i, width)
        right, below = row * width + (column + 1) % width, (i + width) % n
        # With a single row or column the neighbour below, or to the right, is
        # oneself.
        graph.add_edges_from((i, j) for j in (right, below) if j != i)
    return graph


@plugin("topology")
def binary_tree(n: int) -> nx.Graph[int]:
    """Node i exchanges with its parent (i - 1) // 2 and its children 2i + 1 and
    2i + 2.

    The fewest links that connect everybody over a short way: n - 1 links, diameter
    near 2 log2 n; half of the nodes meet at the root, so it mixes slowly.

    >>> sorted(binary_tree(5).edges())
    [(0, 1), (0, 2), (1, 3), (1, 4)]
    """
    graph = nx.empty_graph(n)
    graph.add_edges_from(((i - 1) // 2, i) for i in range(1, n))
    return graph


@plugin("topology", sizes=POWER_OF_2)
def hypercube(n: int) -> nx.Graph[int]:
    """Node i exchanges with the log2 n nodes whose number differs in one bit; n
    must be a power of 2.

    With Metropolis-Hastings weights the gap is 2 / (1 + log2 n).

    >>> sorted(hypercube(4).edges())
    [(0, 1), (0, 2), (1, 3), (2, 3)]
    """
    graph = nx.empty_graph(n)
    bits = [2**k for k in range((n - 1).bit_length())]
    graph.add_edges_from((i, i ^ bit) for i in range(n) for bit in bits if i < i ^ bit)
    return graph


@plugin("topology")
def barbell(n: int, *, bar: Annotated[int, Ge(0)] = 0) -> nx.Graph[int]:
    """Two complete halves, joined by one link or by a bar of nodes: the worst
    bottleneck.

    ``bar`` nodes at most lie between the halves; the gap falls like 1 / n^2 at
    least.

    Args:
        n: Number of nodes.
        bar: Nodes between the two halves.

    >>> sorted(barbell(5).edges())
    [(0, 1), (1, 2), (2, 3), (2, 4), (3, 4)]
    """
    between = min(bar, max(0, n - 2))
    left = (n - between) // 2
    graph = nx.empty_graph(n)
    graph.add_edges_from(combinations(range(left), 2))
    graph.add_edges_from(combinations(range(left + between, n), 2))
    graph.add_edges_from(
        (i, i + 1) for i in range(max(0, left - 1), min(n - 1, left + between))
    )
    return graph


@plugin("topology")
def lollipop(n: int) -> nx.Graph[int]:
    """A complete half with a line of the other half: the slowest graph for a random
    walk.

    >>> sorted(lollipop(5).edges())
    [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
    """
    head = (n + 1) // 2
    graph = nx.path_graph(n)
    graph.add_edges_from(combinations(range(head), 2))
    return graph


@plugin("topology")
def clusters(n: int, *, size: Count = 4, bridges: Count = 1) -> nx.Graph[int]:
    """Complete clusters of ``size`` nodes in a ring, neighbours joined by
    ``bridges`` links.

    Consecutive nodes form a cluster, as GPUs do in a host or machines on a site;
    sizes differ by at most one where n is no multiple. The j-th bridge leads from
    the j-th last member of a cluster to the j-th member of the next.

    Args:
        n: Number of nodes.
        size: Nodes of a cluster.
        bridges: Links between neighbouring clusters.

    >>> sorted(clusters(4, size=2).edges())
    [(0, 1), (1, 2), (2, 3)]
    """
    count = -(-n // size)
    cuts = [n * c // count for c in range(count + 1)]
    members = [range(low, high) for low, high in pairwise(cuts)]
    graph = nx.empty_graph(n)
    for inside in members:
        graph.add_edges_from(combinations(inside, 2))
    # Of two clusters the ring would join the same pair twice.
    around = zip(members, members[1:] + members[:1] * (count > 2), strict=False)
    for one, other in around:
        graph.add_edges_from(list(zip(reversed(one), other, strict=False))[:bridges])
    return graph
