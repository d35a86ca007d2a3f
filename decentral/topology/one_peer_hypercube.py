"""The one-peer hypercube, time-varying."""

from __future__ import annotations

import networkx as nx

from decentral.registry import plugin
from decentral.topology import POWER_OF_2
from decentral.topology._cuboid import graph_of, rounds


def _digits(n: int, settings: object) -> int:
    return (n - 1).bit_length()


@plugin("topology", period=_digits, exact_after=_digits, sizes=POWER_OF_2)
def one_peer_hypercube(n: int, round: int) -> nx.Graph[int]:
    """In round k node i averages with i XOR 2^(k mod log2 n): one peer, both ways.

    Any log2 n consecutive rounds average exactly; n must be a power of 2. (Shi et al.,
    "Finite-time convergent gossiping", 2016.)

    >>> sorted(one_peer_hypercube(4, 1).edges())
    [(0, 2), (1, 3)]
    """
    digits = _digits(n, None)
    return graph_of(n, rounds(range(n), [2] * digits)[round % digits] if digits else [])
