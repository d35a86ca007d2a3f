"""EquiTopo, one peer per round."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import networkx as nx
from annotated_types import Gt, Le

from decentral import rng
from decentral.registry import plugin

Pairs = list[tuple[int, int]]


@lru_cache(maxsize=4096)
def _matching(n: int, hop: int) -> Pairs:
    """Walk around the nodes and pair each with the one a hop further, where both are free."""
    free, pairs = [True] * n, Pairs()
    for i in range(n):
        j = (i + hop) % n
        if free[i] and free[j] and i != j:
            pairs.append((i, j))
            free[i] = free[j] = False
    return pairs


def _expected(n: int, intensity: float, settings: Mapping[str, Any]) -> float:
    if settings["directed"] or n == 1:
        return intensity * n * (n > 1)
    return intensity * 2 * sum(len(_matching(n, hop)) for hop in range(1, n)) / (n - 1)


@plugin(
    "topology",
    disconnected="connected only in expectation: every round draws one hop",
    doubly_stochastic=True,
    expected_links=_expected,
)
def equi_dynamic(
    n: int,
    round: int,
    seed: int,
    *,
    directed: bool = True,
    eta: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> nx.Graph[int]:
    """One random hop u per round: W = (1 - eta) I + eta A, A having (n-1)/n from i to i + u.

    With one message per node and round, directed, E||x - mean||^2 shrinks by (1 - 1/n)/2 at
    eta = 1/2: a rate that does not fall with n. Undirected, the nodes are matched along the hop
    from a random start, so that both ends of a pair exchange. (Song et al., NeurIPS 2022:
    OD-EquiDyn and OU-EquiDyn.)

    >>> equi_dynamic(8, 0, 1).number_of_edges()
    8
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph if directed else nx.Graph)
    if n == 1:
        return graph
    hop = 1 + int(rng.integers(n - 1, seed, "hop", round)[0])
    start = int(rng.integers(n, seed, "start", round)[0])
    pairs = [(i, i + hop) for i in range(n)] if directed else _matching(n, hop)
    links = [((i + start) % n, (j + start) % n) for i, j in pairs]
    graph.add_edges_from(links, weight=eta * (n - 1) / n)
    return graph
