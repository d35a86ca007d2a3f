"""Models that move to other nodes in every round."""

from __future__ import annotations

from typing import Annotated, Any

import networkx as nx
import numpy as np
from annotated_types import Ge

from decentral import rng
from decentral.registry import plugin


def _offsets(models: int) -> list[int]:
    """Return whom a model hears: itself and those 1, 2, 4, ... before it."""
    return [0, *(2**i for i in range((models - 1).bit_length()))]


def _expected(n: int, intensity: float, settings: Any) -> float:
    models = min(settings["active"], n)
    return intensity * models * len(_offsets(models)) * (1 - 1 / n)


@plugin(
    "topology",
    activation="round",
    expected_links=_expected,
    disconnected="k nodes hand their models to k others, and all others rest",
)
def teleportation(
    n: int, round: int, seed: int, *, active: Annotated[int, Ge(2)] = 4
) -> nx.DiGraph[int]:
    """In every round ``active`` nodes hand over to as many others, drawn anew from all.

    New node a hears the old ones a, a - 1, a - 2, a - 4, ... with equal weights: an exponential
    graph between the models. For the algorithm of that name. (Takezawa & Stich, "Scalable
    decentralized learning with teleportation", ICLR 2025.)
    """
    models = min(active, n)
    old, new = (
        rng.permuted(np.arange(models), n, seed, "teleportation", turn).tolist()
        for turn in (round, round + 1)
    )
    offsets = _offsets(models)
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    for place, node in enumerate(new):
        heard = [old[(place - offset) % models] for offset in offsets]
        graph.add_weighted_edges_from(
            (other, node, 1 / len(offsets)) for other in heard if other != node
        )
    return graph
