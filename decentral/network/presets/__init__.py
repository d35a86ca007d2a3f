"""Networks: functions ``(n) -> Network`` that say what lies between n nodes.

``latency_s`` is seconds one way; bandwidths are bytes per second, written with any unit. A graph
file (as for a topology) whose links carry ``latency`` and ``bandwidth`` is a network, too.
"""

from __future__ import annotations

from typing import Any

from decentral.errors import ConfigError
from decentral.network.graphs import check_connected, network_of
from decentral.network.links import AllReduce, Network
from decentral.registry import Bound, Plugin, build
from decentral.signature import signature_settings
from decentral.topology import resolve as graph_of


def nodes_of(value: object) -> int | None:
    """Return the number of nodes of a network that comes with one, as a file does."""
    own = build("network", value).plugin.traits.get("nodes")
    return int(own()) if own else None


def common(*, all_reduce: AllReduce = "auto") -> None:
    """Settings of every network: how a global average goes; auto: ring or tree, as is faster."""


def make(value: object, nodes: int) -> tuple[Network, Bound]:
    """Build the network between some nodes from text, a mapping or a function; return its rule."""
    rule = build("network", value)
    made: Any = rule(nodes)
    if not isinstance(made, Network):
        raise ConfigError(f"network {rule.name!r} returned {type(made).__name__}, not a Network.")
    if made.nodes != nodes:
        raise ConfigError(
            f"network {rule.name!r} has {made.nodes} nodes, the run has {nodes}; "
            f"set nodes to {made.nodes} or choose another network."
        )
    check_connected(made, rule.name)
    return made, rule


def resolve(name: str) -> Plugin | None:
    """Find networks outside the folder: graph files."""
    if name.startswith("nx:"):
        return None
    graph = graph_of(name)
    if graph is None:
        return None

    def read(n: int, /) -> Network:
        """Read a network from a graph file."""
        return network_of(graph.target(n), name)

    traits = {"nodes": lambda: len(graph.target(0))}
    return Plugin("network", graph.name, read, {}, traits, signature_settings(common))
