"""The hyper-cuboid, time-varying."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import networkx as nx

from decentral.registry import Count, plugin
from decentral.topology import Sizes
from decentral.topology._cuboid import factors, graph_of, rounds


def _sizes(n: int, settings: Mapping[str, Any]) -> list[int] | None:
    given = settings["sizes"]
    if given is None:
        return factors(n, settings["k"] + 1)
    return list(given) if prod(given) == n else None


def _length(n: int, settings: Mapping[str, Any]) -> int:
    return len([size for size in _sizes(n, settings) or [] if size > 1])


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    return _sizes(n, settings) is not None


@plugin(
    "topology",
    period=_length,
    exact_after=_length,
    sizes=Sizes(_fits, "a product of factors up to k + 1, or of the given sizes"),
)
def hyper_cuboid(
    n: int, round: int, *, k: Count = 4, sizes: list[Count] | None = None
) -> nx.Graph[int]:
    """Nodes are numbers with digits; in a round those that differ in one digit average exactly.

    n is split into factors of at most k + 1, or into the given ``sizes``; any as many consecutive
    rounds as there are factors average exactly. ``sizes=[8, 4]`` is the hierarchy of 4 machines
    with 8 GPUs: first inside, then across, each GPU with its counterparts ("rails"). (Takezawa et
    al., "Beyond exponential graph", NeurIPS 2023, algorithm 1; Nguyen et al., "On graphs with
    finite-time consensus and their use in gradient tracking", 2025.)

    >>> sorted(hyper_cuboid(4, 0, sizes=[2, 2]).edges())
    [(0, 1), (2, 3)]
    """
    wanted = _sizes(n, {"k": k, "sizes": sizes}) or []
    sequence = [links for links in rounds(range(n), wanted) if links]
    return graph_of(n, sequence[round % len(sequence)] if sequence else [])
