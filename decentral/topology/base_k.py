"""The Base-(k + 1) graph, time-varying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology._cuboid import Round, factors, graph_of, rounds


def _length(n: int, settings: Mapping[str, Any]) -> int:
    return len(_sequence(n, settings["k"] + 1))


@plugin("topology", period=_length, exact_after=_length)
def base_k(n: int, round: int, *, k: Count = 1) -> nx.Graph[int]:
    """A sequence of sparse graphs that averages exactly, for every n, with at most k peers each.

    After one sequence, of at most 2 log(n) / log(k + 1) + 2 rounds, everybody holds the mean; the
    sequence then repeats. Takezawa et al., "Beyond exponential graph: communication-efficient
    topologies for decentralized learning via finite-time convergence", NeurIPS 2023, without the
    extra links between nodes that rest. From a point within a sequence it takes until the end of
    the next.

    >>> [base_k(5, r).number_of_edges() for r in range(5)]
    [2, 2, 1, 2, 2]
    """
    sequence = _sequence(n, k + 1)
    return graph_of(n, sequence[round % len(sequence)] if sequence else [])


@lru_cache(maxsize=64)
def _sequence(n: int, base: int) -> list[Round]:
    """Return the shorter of two ways: digits of n at once, or of its large prime factors only."""
    whole = _simple(range(n), base)
    smooth = _smooth_part(n, base)
    rest = n // smooth
    if smooth == 1 or rest == 1:
        return whole
    inside = [_simple(range(first, first + rest), base) for first in range(0, n, rest)]
    across = [_averaging(range(i, n, rest), base) for i in range(rest)]
    split = _together(inside) + _together(across)
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

    The digits of n to the base make parts V_1, V_2, ... of a_l base^p_l nodes. Each part averages
    inside; V_1, then V_2, ... hands its share to all later parts; each piece of base^p_l nodes of
    a part averages inside once more.
    """
    if factors(len(nodes), base) is not None:
        return _averaging(nodes, base)
    parts = _parts(nodes, base)
    inside = _together([_averaging(part, base) for part, _ in parts])
    ways: list[list[Round]] = []
    for place, (part, piece) in enumerate(parts):
        later = [node for rest, _ in parts[place + 1 :] for node in rest]
        pieces = [part[low : low + piece] for low in range(0, len(part), piece)]
        handing = [_handing(part, pieces, later)] if later else []
        again = _together([_averaging(nodes, base) for nodes in pieces])
        ways.append([Round()] * place + handing + again)
    return inside + _together(ways)


def _averaging(nodes: Sequence[int], base: int) -> list[Round]:
    return rounds(nodes, factors(len(nodes), base) or [])


def _parts(nodes: Sequence[int], base: int) -> list[tuple[Sequence[int], int]]:
    """Split nodes by the digits of their number: (part, size of its pieces), large parts first."""
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


def _handing(part: Sequence[int], pieces: Sequence[Sequence[int]], later: Sequence[int]) -> Round:
    """Link each later node with one node of every piece, so that it holds the mean of both."""
    weight = len(part) / (len(part) + len(later)) / len(pieces)
    return [(one[i], node, weight) for i, node in enumerate(later) for one in pieces]
