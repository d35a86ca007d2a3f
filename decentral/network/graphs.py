"""Networks from graphs whose links carry latency and bandwidth."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from decentral.errors import ConfigError
from decentral.network.links import Network, routed
from decentral.topology.labels import labels_of, numbered
from decentral.units import parse_bandwidth

#: What a link may carry, and what a link lacks in a network where no link carries it.
_CARRIED = {"latency_s": 0.0, "bandwidth_Bps": inf}
#: What a node may carry: the capacity of its line, as text or in bytes per second.
_LINES = {"up": "up_Bps", "down": "down_Bps"}


def carries_links(graph: Any) -> bool:
    """Whether any link of a graph says what it costs."""
    return any(_CARRIED.keys() & data.keys() for _, _, data in graph.edges(data=True))


def network_of(graph: Any, name: str) -> Network:
    """Return the network whose sites are a graph's nodes; messages may go over several links.

    Nodes are numbered as in a topology. Links carry ``latency_s`` and ``bandwidth_Bps``, nodes
    perhaps ``up`` and ``down``. Raises ConfigError for impossible costs.
    """
    graph = numbered(graph)
    nodes, labels = len(graph), labels_of(graph)
    latency_s, bandwidth_Bps = np.full((nodes, nodes), inf), np.zeros((nodes, nodes))
    for (one, other), (seconds, rate) in _carried(graph, name).items():
        latency_s[one, other], bandwidth_Bps[one, other] = seconds, rate
        if not graph.is_directed():
            latency_s[other, one], bandwidth_Bps[other, one] = seconds, rate
    lines = {key: np.full(nodes, inf) for key in _LINES.values()}
    for node, data in graph.nodes(data=True):
        for text, key in _LINES.items():
            if text in data or key in data:
                written = data.get(text, data.get(key))
                where = f"network {name}, node {labels[node]}: {text}"
                lines[key][node] = parse_bandwidth(written, where)
    return routed(Network(np.arange(nodes), latency_s, bandwidth_Bps, **lines))


def _carried(graph: Any, name: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Return (latency, bandwidth) by link."""
    labels, links = labels_of(graph), list(graph.edges(data=True))
    common = {key for key in _CARRIED if any(key in data for _, _, data in links)}
    if not common:
        raise ConfigError(
            f"network {name}: no link carries a latency or a bandwidth; "
            "write latency: 20ms and bandwidth: 100Mbit/s on every link."
        )
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for one, other, data in links:
        where = f"network {name}, link {labels[one]}-{labels[other]}"
        values = {key: data.get(key, default) for key, default in _CARRIED.items()}
        if lacking := sorted(common - data.keys()):
            what = lacking[0].partition("_")[0]
            raise ConfigError(
                f"{where}: it has no {what}, but others have; give it to all links, or to none."
            )
        if not (0 <= values["latency_s"] < inf and values["bandwidth_Bps"] > 0):
            raise ConfigError(
                f"{where}: latency {values['latency_s']} s, bandwidth "
                f"{values['bandwidth_Bps']} B/s; latency must be at least 0, bandwidth above 0."
            )
        found[one, other] = values["latency_s"], values["bandwidth_Bps"]
    return found


def check_connected(network: Network, name: str) -> None:
    """Raise ConfigError where two sites cannot reach each other."""
    apart = np.argwhere(~np.isfinite(network.latency_s))
    if len(apart):
        one, other = (int(np.flatnonzero(network.site == site)[0]) for site in apart[0])
        raise ConfigError(
            f"network {name}: no way leads from node {one} to node {other}; "
            "add the links that are missing."
        )
