"""Parallel links of a multigraph: one rule for what stays of them, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import networkx as nx


class Disagreement:
    """Mixing weights of parallel links that differ: none of them is the weight of the link."""

    def __init__(self, weights: Sequence[Any]) -> None:
        """Keep the weights as text, sorted."""
        self.weights = sorted({str(weight) for weight in weights})

    def __str__(self) -> str:
        """Name the weights."""
        return " and ".join(self.weights)


def simplified(graph: Any) -> Any:
    """Return a graph in which the better cable stands for all parallel links, as a whole.

    That is the one of the highest ``bandwidth_Bps``, of equals the one of the lowest ``latency_s``;
    a cable that does not say either is worse than one that does. Attributes of two cables are never
    mixed; a ``weight`` stays where all cables agree on it, and is a ``Disagreement`` elsewhere.
    """
    if not graph.is_multigraph():
        return graph
    simple = nx.DiGraph() if graph.is_directed() else nx.Graph()
    simple.graph.update(graph.graph)
    simple.add_nodes_from(graph.nodes(data=True))
    cables: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for one, other, data in graph.edges(data=True):
        flipped = not graph.is_directed() and (other, one) in cables
        cables.setdefault((other, one) if flipped else (one, other), []).append(data)
    for (one, other), parallel in cables.items():
        best = dict(min(parallel, key=_rank) if len(parallel) > 1 else parallel[0])
        weights = [data.get("weight") for data in parallel]
        best.pop("weight", None)
        if any(weight != weights[0] for weight in weights[1:]):
            best["weight"] = Disagreement(weights)
        elif weights[0] is not None:
            best["weight"] = weights[0]
        simple.add_edge(one, other, **best)
    return simple


def _rank(cable: Mapping[str, Any]) -> tuple[float, float, str]:
    """Sort better cables first; what else they carry decides between equals."""
    rest = sorted((str(key), str(value)) for key, value in cable.items())
    return -cable.get("bandwidth_Bps", 0.0), cable.get("latency_s", inf), str(rest)
