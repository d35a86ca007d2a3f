"""Finite-time graphs: after a fixed number of rounds every node holds the exact
mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, zip_longest
from math import prod
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology.base import Sizes

#: One round: links with their weights.
Round = list[tuple[int, int, float]]


def factors(n: int, largest: int) -> list[int] | None:
    """Split n into factors of at most ``largest``, ascending; None where a prime is
    larger.

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
        # Numbers whose digit at this place is 0: one for each group.
        starts = [i for i in range(len(nodes)) if i // stride % size == 0]
        groups = [
            [nodes[start + digit * stride] for digit in range(size)] for start in starts
        ]
        found.append(
            [(a, b, 1 / size) for group in groups for a, b in combinations(group, 2)]
        )
        stride *= size
    return found


def graph_of(n: int, links: Iterable[tuple[int, int, float]]) -> nx.Graph[int]:
    """Return the graph of one round on nodes 0..n-1, with its weights."""
    graph = nx.empty_graph(n)
    graph.add_weighted_edges_from(links)
    return graph


def _base_k_rounds(n: int, settings: Mapping[str, Any]) -> int:
    return len(_sequence(n, settings["k"] + 1))


@plugin("topology", period=_base_k_rounds, exact_after=_base_k_rounds)
def base_k(n: int, round: int, *, k: Count = 1) -> nx.Graph[int]:
    """A sequence of sparse graphs that averages exactly, for every n, with at most
    k peers each.

    After one sequence, of at most 2 log(n) / log(k + 1) + 2 rounds, everybody holds
    the mean; the sequence then repeats. Takezawa et al., "Beyond exponential graph:
    communication-efficient topologies for decentralized learning via finite-time
    convergence", NeurIPS 2023, without the extra links between nodes that rest.
    From a point within a sequence it takes until the end of the next.

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        k: Peers of a node in a round, at most.

    >>> [base_k(5, r).number_of_edges() for r in range(5)]
    [2, 2, 1, 2, 2]
    """
    sequence = _sequence(n, k + 1)
    return graph_of(n, sequence[round % len(sequence)] if sequence else [])


@lru_cache(maxsize=64)
def _sequence(n: int, base: int) -> list[Round]:
    """Return the shorter of two ways: digits of n at once, or of its large prime
    factors only.
    """
    whole = _simple(range(n), base)
    smooth = _smooth_part(n, base)
    rest = n // smooth
    if smooth == 1 or rest == 1:
        return whole
    inside = [_simple(range(first, first + rest), base) for first in range(0, n, rest)]
    across = [_averaging(range(i, n, rest), base) for i in range(rest)]
    split = _together(inside) + _together(across)
    # Neither way is always the shorter one.
    return split if len(split) <= len(whole) else whole


def _smooth_part(n: int, base: int) -> int:
    """Return the largest divisor of n without prime factors above the base."""
    part = n
    for prime in range(base + 1, n + 1):
        while part % prime == 0 and all(prime % d for d in range(2, prime)):
            part //= prime
    return part


def _together(sequences: Sequence[Sequence[Round]]) -> list[Round]:
    """Run sequences on disjoint nodes side by side."""
    return [sum(links, Round()) for links in zip_longest(*sequences, fillvalue=Round())]


def _simple(nodes: Sequence[int], base: int) -> list[Round]:
    """Return the Simple Base-(k + 1) graph.

    The digits of n to the base make parts V_1, V_2, ... of a_l base^p_l nodes. Each
    part averages inside; V_1, then V_2, ... hands its share to all later parts;
    each piece of base^p_l nodes of a part averages inside once more.
    """
    if factors(len(nodes), base) is not None:
        return _averaging(nodes, base)
    parts = _parts(nodes, base)
    inside = _together([_averaging(part, base) for part, _ in parts])
    ways: list[list[Round]] = []
    for place, (part, piece) in enumerate(parts):
        later = [node for rest, _ in parts[place + 1 :] for node in rest]
        # Each later node is linked with one node of every piece: all of a part give
        # alike.
        pieces = [part[low : low + piece] for low in range(0, len(part), piece)]
        handing = [_handing(part, pieces, later)] if later else []
        again = _together([_averaging(nodes, base) for nodes in pieces])
        ways.append([Round()] * place + handing + again)
    return inside + _together(ways)


def _averaging(nodes: Sequence[int], base: int) -> list[Round]:
    return rounds(nodes, factors(len(nodes), base) or [])


def _parts(nodes: Sequence[int], base: int) -> list[tuple[Sequence[int], int]]:
    """Split nodes by the digits of their number: (part, size of its pieces), large
    parts first.
    """
    found: list[tuple[Sequence[int], int]] = []
    piece = 1
    while piece * base <= len(nodes):
        piece *= base
    low = 0
    while low < len(nodes):
        size = (len(nodes) - low) // piece * piece
        if size:
            found.append((nodes[low : low + size], piece))
        low, piece = low + size, piece // base
    return found


def _handing(
    part: Sequence[int], pieces: Sequence[Sequence[int]], later: Sequence[int]
) -> Round:
    """Link each later node with one node of every piece, so that it holds the mean
    of both.
    """
    weight = len(part) / (len(part) + len(later)) / len(pieces)
    return [(one[i], node, weight) for i, node in enumerate(later) for one in pieces]


def _sizes(n: int, settings: Mapping[str, Any]) -> list[int] | None:
    given = settings["sizes"]
    if given is None:
        return factors(n, settings["k"] + 1)
    return list(given) if prod(given) == n else None


def _cuboid_rounds(n: int, settings: Mapping[str, Any]) -> int:
    return len([size for size in _sizes(n, settings) or [] if size > 1])


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    return _sizes(n, settings) is not None


@plugin(
    "topology",
    period=_cuboid_rounds,
    exact_after=_cuboid_rounds,
    sizes=Sizes(_fits, "a product of factors up to k + 1, or of the given sizes"),
)
def hyper_cuboid(
    n: int, round: int, *, k: Count = 4, sizes: list[Count] | None = None
) -> nx.Graph[int]:
    """Nodes are numbers with digits; in a round those that differ in one digit
    average exactly.

    n is split into factors of at most k + 1, or into the given ``sizes``; any as
    many consecutive rounds as there are factors average exactly. ``sizes=[8, 4]``
    is the hierarchy of 4 machines with 8 GPUs: first inside, then across, each GPU
    with its counterparts ("rails"). (Takezawa et al., "Beyond exponential graph",
    NeurIPS 2023, algorithm 1; Nguyen et al., "On graphs with finite-time consensus
    and their use in gradient tracking", 2025.)

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        k: Peers of a node in a round, at most.
        sizes: Length of every side; their product is n. None: factors of at most k
            + 1.

    >>> sorted(hyper_cuboid(4, 0, sizes=[2, 2]).edges())
    [(0, 1), (2, 3)]
    """
    wanted = _sizes(n, {"k": k, "sizes": sizes}) or []
    sequence = [links for links in rounds(range(n), wanted) if links]
    return graph_of(n, sequence[round % len(sequence)] if sequence else [])


def _exact(n: int, settings: Mapping[str, Any]) -> int | None:
    base, hops = settings["k"] + 1, 0
    # Exact where every residue is reached equally often: n divides (k + 1)^hops.
    while base**hops < n or base**hops % n:
        hops += 1
        if hops > n.bit_length():
            return None
    return hops


@plugin("topology", exact_after=_exact)
def de_bruijn(n: int, *, k: Count = 1) -> nx.DiGraph[int]:
    """Node i sends to (k + 1) i + a modulo n, a = 0..k, itself included where it is
    among them.

    Directed, the same in every round, doubly stochastic for any n; for n a power of
    k + 1 it averages exactly after log n to that base (Nguyen et al., "On graphs
    with finite-time consensus and their use in gradient tracking", 2025). The plain
    matrix is far from symmetric: its gap is measured over log2 n rounds.

    Args:
        n: Number of nodes.
        k: Peers that a node sends to; itself comes on top.

    >>> sorted(de_bruijn(8).successors(3))
    [6, 7]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    for i in range(n):
        for a in range(k + 1):
            receiver = ((k + 1) * i + a) % n
            # Several digits a may lead to the same node, whose link then weighs as
            # much more.
            before = graph.get_edge_data(i, receiver, {"weight": 0.0})["weight"]
            graph.add_edge(i, receiver, weight=before + 1 / (k + 1))
    return graph
