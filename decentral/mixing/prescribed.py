"""Weights that a graph prescribes: refused where they cannot mix, before anything
runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decentral.errors import ConfigError
from decentral.plugins import describe, label_of, wrong
from decentral.registry import ConfiguredPlugin
from decentral.topology.base import Links, Topology, number
from decentral.topology.files.assemble import OWN_WEIGHT, Disagreement, file_of
from decentral.topology.labels import labels_of

_TOLERANCE = 1e-9
#: Weights in files are rounded.
_ROUNDING = 1e-4


def check_prescribed(topology: Topology, rounds: int) -> None:
    """Raise ConfigError for the first of some rounds whose prescribed weights
    cannot mix.
    """
    for round in range(rounds):
        links = topology.links(round)
        if not len(links):
            continue
        graph = topology.graph(round)
        reason = _unreadable(graph) or _unfit(links, graph) or _inconsistent(links, graph)
        if reason:
            when = f" in round {round}" if topology.time_varying else ""
            # Metropolis weights need both directions of a link.
            remedy = "uniform" if links.directed else "metropolis"
            raise ConfigError(
                f"{label_of(topology.rule)} prescribes mixing weights by the edge attribute "
                f"'weight', which cannot mix{when}: {reason}; use weights={remedy}, which leaves "
                "them aside, or mend them."
            )


def absent(topology: Topology) -> str:
    """Say that a graph prescribes no weights, to who has asked for them."""
    file = file_of(topology.graph(0))
    which = "every link has the weight 1, which says nothing" if file and file.ones else (
        "no link carries an attribute 'weight'"
    )  # fmt: skip
    return (
        f"weights: file asks for the weights of topology {topology.rule.name!r}, and {which}; "
        "write them into the file, or leave weights out."
    )


def _unreadable(graph: Any) -> str:
    """Say which link carries no number, if one does."""
    for one, other, data in graph.edges(data=True):
        weight = data.get("weight")
        if np.isfinite(number(weight)):
            continue
        link = _link(graph, one, other)
        if weight is None:
            return f"{link} has none, and others have"
        if isinstance(weight, Disagreement):
            return f"{link} has parallel links of the weights {weight}"
        return f"that of {link} is {weight!r}, no finite number"
    return ""


def _unfit(links: Links, graph: Any) -> str:
    """Say which weight is negative, or which node receives more than 1 in all."""
    weights = links.weights
    assert weights is not None  # every link carries a number
    least = int(weights.argmin())
    if weights[least] < 0:
        ends = int(links.senders[least]), int(links.receivers[least])
        link = _link(graph, *(ends if links.directed else sorted(ends)))
        return f"that of {link} is {weights[least]:g}, below 0"
    # By node, over all that it receives: what is left of 1 is the weight of its own
    # row, and must not be negative.
    received = np.bincount(links.receivers, weights=weights, minlength=len(graph))
    most = int(received.argmax())
    if received[most] > 1 + _TOLERANCE:
        total = f"{received[most]:.6g}"
        return f"those of {_node(graph, most)}'s neighbours sum to {total}, more than 1"
    return ""


def _inconsistent(links: Links, graph: Any) -> str:
    """Say which node keeps something else of its own row than its neighbours leave."""
    received = np.bincount(links.receivers, weights=links.weights, minlength=len(graph))
    for node, own in graph.nodes(data=OWN_WEIGHT):
        if own is not None and not abs(number(own) + received[node] - 1) < _ROUNDING:
            return (
                f"{_node(graph, node)}'s own, that of its link to itself, is {own}, and its "
                f"neighbours leave {1 - received[node]:.6g}"
            )
    return ""


def _link(graph: Any, one: int, other: int) -> str:
    """Name a link by what the graph calls its ends, and by its line in a file.

    Args:
        graph: The graph of a round.
        one: An end.
        other: The other end.
    """
    labels, file = labels_of(graph), file_of(graph)
    line = file.line(one, other) if file else None
    return f"link {labels[one]}-{labels[other]}" + (f" (line {line})" if line else "")


def _node(graph: Any, node: int) -> str:
    """Name a node by its number and, where that is another, by its label."""
    label = labels_of(graph)[node]
    return f"node {node}" + (f" ({label})" if label != str(node) else "")


def check_returned(rule: ConfiguredPlugin, weights: Any, links: Links) -> None:
    """Refuse what is no finite number for each link.

    Args:
        rule: The rule.
        weights: What it has returned.
        links: The links that are on.
    """
    if not isinstance(weights, np.ndarray) or weights.shape != links.receivers.shape:
        raise wrong(
            rule, describe(weights), f"an array of {len(links)} weights, one per link"
        )
    if weights.dtype.kind not in "fiu" or not np.isfinite(weights).all():
        raise wrong(
            rule, "weights that are no finite numbers", "a finite weight for each link"
        )
