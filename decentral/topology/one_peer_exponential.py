"""The one-peer exponential graph, time-varying."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin


def _hops(n: int, settings: object = None) -> int:
    return (n - 1).bit_length()


@plugin(
    "topology",
    period=_hops,
    exact_after=lambda n, settings: _hops(n) if n & (n - 1) == 0 else None,
)
def one_peer_exponential(n: int, round: int) -> nx.DiGraph[int]:
    """In round k node i hears only i - 2^(k mod log2 n), with weight 1/2.

    For n a power of 2, any log2 n consecutive rounds average exactly (Ying et al., NeurIPS 2021).

    >>> list(one_peer_exponential(8, 1).predecessors(0))
    [6]
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    if n > 1:
        hop = 2 ** (round % _hops(n))
        graph.add_edges_from(((i, (i + hop) % n) for i in range(n)), weight=0.5)
    return graph
