"""Exponential graphs and their kin: links to nodes 1, 2, 4, ... away, at once or by
turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from math import ceil, gcd, log
from typing import Annotated, Any

import networkx as nx
import numpy as np
from annotated_types import Ge, Gt, Le

from decentral import rng
from decentral.registry import Count, plugin
from decentral.topology.base import POWER_OF_2
from decentral.topology.finite_time import graph_of, rounds


@plugin("topology")
def exponential(n: int) -> nx.DiGraph[int]:
    """Node i sends to i + 2^0, i + 2^1, ..., modulo n: degree ceil(log2 n),
    directed.

    Uniform weights are doubly stochastic; gap = 2 / (1 + log2 n) when n is a power
    of 2 (Ying et al., "Exponential graph is provably efficient for decentralized
    deep training", NeurIPS 2021).

    >>> sorted(exponential(4).successors(0))
    [1, 2]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    hops = [2**k for k in range((n - 1).bit_length())]
    graph.add_edges_from((i, (i + hop) % n) for i in range(n) for hop in hops)
    return graph


def _period(n: int, settings: object = None) -> int:
    return (n - 1).bit_length()


@plugin(
    "topology",
    period=_period,
    exact_after=lambda n, settings: _period(n) if n & (n - 1) == 0 else None,
)
def one_peer_exponential(n: int, round: int) -> nx.DiGraph[int]:
    """In round k node i receives only from i - 2^(k mod log2 n), with weight 1/2.

    For n a power of 2, any log2 n consecutive rounds average exactly (Ying et al.,
    NeurIPS 2021).

    >>> list(one_peer_exponential(8, 1).predecessors(0))
    [6]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    if n > 1:
        hop = 2 ** (round % _period(n))
        graph.add_edges_from(((i, (i + hop) % n) for i in range(n)), weight=0.5)
    return graph


def _digits(n: int, settings: object) -> int:
    return (n - 1).bit_length()


@plugin("topology", period=_digits, exact_after=_digits, sizes=POWER_OF_2)
def one_peer_hypercube(n: int, round: int) -> nx.Graph[int]:
    """In round k node i averages with i XOR 2^(k mod log2 n): one peer, both ways.

    Any log2 n consecutive rounds average exactly; n must be a power of 2. (Shi et
    al., "Finite-time convergent gossiping", 2016.)

    >>> sorted(one_peer_hypercube(4, 1).edges())
    [(0, 2), (1, 3)]
    """
    digits = _digits(n, None)
    return graph_of(n, rounds(range(n), [2] * digits)[round % digits] if digits else [])


@plugin("topology")
def equi_static(
    n: int, seed: int, *, hops: Count | None = None, directed: bool = True
) -> nx.Graph[int]:
    """Everybody sends to the nodes that lie the same few random hops further: O(1)
    rate at log n.

    W is the mean of M matrices, hop u drawn uniformly from 1..n-1: (n-1)/n from i
    to i + u, 1/n kept. ``hops`` is M, by default ceil(ln n); undirected is (W + W')
    / 2. With M of order ln n the gap does not fall with n (Song et al.,
    "Communication-efficient topologies for decentralized learning with O(1)
    consensus rate", NeurIPS 2022: D-EquiStatic and U-EquiStatic).

    Args:
        n: Number of nodes.
        seed: Seed of the run.
        hops: Number of hops, M; none: ceil(ln n).
        directed: Whether messages go one way; otherwise W is (W + W') / 2.

    >>> {d for _, d in equi_static(16, 0).out_degree()}
    {3}
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph if directed else nx.Graph)
    if n == 1:
        return graph
    chosen = _hops(n, hops or ceil(log(n)), seed)
    share: Counter[int] = Counter()
    for hop in chosen:
        # Counted twice either way, so that both kinds have the same divisor below.
        for way in (hop, hop) if directed else (hop, n - hop):
            share[way] += 1
    # Equal hops add up; an edge that is added again would only replace the first.
    for hop, times in share.items():
        weight = times * (n - 1) / (2 * n * len(chosen))
        graph.add_edges_from(((i, (i + hop) % n) for i in range(n)), weight=weight)
    return graph


def _hops(n: int, how_many: int, seed: int) -> list[int]:
    """Draw hops that reach everybody; the paper takes the first draw, connected or
    not.
    """
    for attempt in count():
        drawn = 1 + rng.integers(n - 1, seed, "hops", attempt, list(range(how_many)))
        # Sums of hops reach all nodes if and only if no divisor of n but 1 divides
        # them all.
        if gcd(n, *drawn.tolist()) == 1:
            return drawn.tolist()
    raise AssertionError


Pairs = list[tuple[int, int]]


@lru_cache(maxsize=4096)
def _matching(n: int, hop: int) -> Pairs:
    """Walk around the nodes and pair each with the one a hop further, where both
    are free.
    """
    free, pairs = [True] * n, Pairs()
    for i in range(n):
        j = (i + hop) % n
        if free[i] and free[j] and i != j:
            pairs.append((i, j))
            free[i] = free[j] = False
    return pairs


def _expected_mixing(n: int, intensity: float, settings: Mapping[str, Any]) -> float:
    if settings["directed"] or n == 1:
        return intensity * n * (n > 1)
    # All hops are as likely, and a pair exchanges two messages.
    return intensity * 2 * sum(len(_matching(n, hop)) for hop in range(1, n)) / (n - 1)


@plugin(
    "topology",
    disconnected="connected only in expectation: every round draws one hop",
    doubly_stochastic=True,
    expected_links=_expected_mixing,
)
def equi_dynamic(
    n: int,
    round: int,
    seed: int,
    *,
    directed: bool = True,
    eta: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> nx.Graph[int]:
    """One random hop u per round: W = (1 - eta) I + eta A, A having (n-1)/n from i
    to i + u.

    With one message per node and round, directed, E||x - mean||^2 shrinks by (1 -
    1/n)/2 at eta = 1/2: a rate that does not fall with n. Undirected, the nodes are
    matched along the hop from a random start, so that both ends of a pair exchange.
    (Song et al., NeurIPS 2022: OD-EquiDyn and OU-EquiDyn.)

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        seed: Seed of the run.
        directed: Whether messages go one way; otherwise nodes exchange in pairs.
        eta: Weight of what is received, in (0, 1].

    >>> equi_dynamic(8, 0, 1).number_of_edges()
    8
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph if directed else nx.Graph)
    if n == 1:
        return graph
    hop = 1 + int(rng.integers(n - 1, seed, "hop", round)[0])
    # With the same pairs every time an odd node out would always be the same one.
    start = int(rng.integers(n, seed, "start", round)[0])
    pairs = [(i, i + hop) for i in range(n)] if directed else _matching(n, hop)
    links = [((i + start) % n, (j + start) % n) for i, j in pairs]
    graph.add_edges_from(links, weight=eta * (n - 1) / n)
    return graph


def _offsets(models: int) -> list[int]:
    """Return whom a model receives from: itself and those 1, 2, 4, ... before it."""
    return [0, *(2**i for i in range((models - 1).bit_length()))]


def _expected_teleportation(n: int, intensity: float, settings: Any) -> float:
    models = min(settings["active"], n)
    return intensity * models * len(_offsets(models)) * (1 - 1 / n)


@plugin(
    "topology",
    activation="round",
    expected_links=_expected_teleportation,
    disconnected="k nodes hand their models to k others, and all others rest",
)
def teleportation(
    n: int, round: int, seed: int, *, active: Annotated[int, Ge(2)] = 4
) -> nx.DiGraph[int]:
    """In every round ``active`` nodes hand over to as many others, drawn anew from
    all.

    New node a receives from the old ones a, a - 1, a - 2, a - 4, ... with equal
    weights: an exponential graph between the models. For the algorithm of that
    name. (Takezawa & Stich, "Scalable decentralized learning with teleportation",
    ICLR 2025.)

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        seed: Seed of the run.
        active: Nodes that train in a round.
    """
    models = min(active, n)
    old, new = (
        rng.permute(np.arange(models), n, seed, "teleportation", turn).tolist()
        # The new nodes of a round are the old ones of the next.
        for turn in (round, round + 1)
    )
    offsets = _offsets(models)
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    for place, node in enumerate(new):
        received = [old[(place - offset) % models] for offset in offsets]
        graph.add_weighted_edges_from(
            (other, node, 1 / len(offsets)) for other in received if other != node
        )
    return graph
