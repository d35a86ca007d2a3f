"""Weights that a graph prescribes: refused where they cannot mix, before anything runs."""

from __future__ import annotations

import numpy as np

from decentral.errors import ConfigError
from decentral.topology.base import Links, Topology, number
from decentral.topology.parallel import Disagreement

_TOLERANCE = 1e-9


def check_prescribed(topology: Topology, rounds: int) -> None:
    """Raise ConfigError for the first of some rounds whose prescribed weights cannot mix."""
    for round in range(rounds):
        links = topology.links(round)
        if not len(links):
            continue
        reason = _unreadable(topology, round) or _unfit(links, topology.nodes)
        if reason:
            when = f" in round {round}" if topology.time_varying else ""
            remedy = "uniform" if links.directed else "metropolis"
            raise ConfigError(
                f"topology {topology.rule.name!r} prescribes mixing weights by the edge attribute "
                f"'weight', which cannot mix{when}: {reason}; use weights={remedy}, which leaves "
                "them aside, or mend them."
            )


def _unreadable(topology: Topology, round: int) -> str:
    """Say which link carries no number, if one does."""
    for one, other, data in topology.graph(round).edges(data=True):
        weight = data.get("weight")
        if np.isfinite(number(weight)):
            continue
        link = f"link {one}-{other}"
        if weight is None:
            return f"{link} has none, and others have"
        if isinstance(weight, Disagreement):
            return f"{link} has parallel links of the weights {weight}"
        return f"that of {link} is {weight!r}, no finite number"
    return ""


def _unfit(links: Links, nodes: int) -> str:
    """Say which weight is negative, or which node hears more than 1 in all."""
    weights = links.weights
    assert weights is not None  # every link carries a number
    least = int(weights.argmin())
    if weights[least] < 0:
        link = f"{links.senders[least]}-{links.receivers[least]}"
        return f"that of link {link} is {weights[least]:g}, below 0"
    heard = np.bincount(links.receivers, weights=weights, minlength=nodes)
    most = int(heard.argmax())
    if heard[most] > 1 + _TOLERANCE:
        return f"those of node {most}'s neighbours sum to {heard[most]:.6g}, more than 1"
    return ""
