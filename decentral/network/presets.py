"""Networks: functions ``(n) -> Network`` that say what lies between n nodes.

``latency_s`` is seconds one way; bandwidths are bytes per second, written with any
unit. A graph file (as for a topology) whose links carry ``latency`` and
``bandwidth`` is a network, too.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from decentral.errors import ConfigError
from decentral.network import links
from decentral.network.links import AllReduce, Network, route
from decentral.plugins import describe, label_of, wrong
from decentral.registry import ConfiguredPlugin, Count, Plugin, build, plugin
from decentral.signature import signature_settings
from decentral.topology.base import resolve as graph_of
from decentral.topology.labels import labels_of, number_nodes
from decentral.traits import NetworkTraits, traits_of
from decentral.units import Bandwidth, Seconds, parse_bandwidth


def nodes_of(value: object) -> int | None:
    """Return the number of nodes of a network that comes with one, as a file does."""
    own = traits_of(build("network", value), NetworkTraits).nodes
    return own() if own else None


def common(*, all_reduce: AllReduce = "auto") -> None:
    """Settings of every network.

    Args:
        all_reduce: How a global average goes; auto: ``ring`` or ``tree``, as is
            faster.
    """


def make(value: object, nodes: int) -> tuple[Network, ConfiguredPlugin]:
    """Build the network between some nodes from text, a mapping or a function;
    return its rule.
    """
    rule = build("network", value)
    made: Any = rule(nodes)
    if not isinstance(made, Network):
        raise wrong(rule, describe(made), "a decentral.network.links.Network")
    _check_figures(rule, made)
    if made.nodes != nodes:
        raise ConfigError(
            f"{label_of(rule)} has {made.nodes} nodes, the run has {nodes}; "
            f"set nodes to {made.nodes} or choose another network."
        )
    check_connected(made, rule.name)
    return made, rule


def _check_figures(rule: ConfiguredPlugin, made: Network) -> None:
    """Refuse figures of a network that no time can be computed from."""
    for name in ("latency_s", "bandwidth_Bps", "up_Bps", "down_Bps"):
        figures = np.asarray(getattr(made, name))
        if not (figures >= 0).all():  # NaN is not
            raise wrong(rule, f"a {name} of {figures.min():g}", f"{name} of at least 0")


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

    traits = NetworkTraits(nodes=lambda: len(graph.target(0)))
    return Plugin("network", graph.name, read, {}, traits, signature_settings(common))


@plugin("network", example="uniform(latency_s=20ms, bandwidth_Bps=100Mbit/s)")
def uniform(
    n: int,
    *,
    latency_s: Seconds,
    bandwidth_Bps: Bandwidth,
    up_Bps: Bandwidth | None = None,
    down_Bps: Bandwidth | None = None,
) -> Network:
    """Connect every pair of nodes by links of the same latency and bandwidth.

    A message of b bytes takes latency + b / bandwidth; ``up_Bps`` and ``down_Bps``
    are the capacity of a node's own line, shared by its simultaneous transfers
    (none: unlimited).

    Args:
        n: Number of nodes.
        latency_s: Seconds of a message one way.
        bandwidth_Bps: Bytes per second of a link.
        up_Bps: Bytes per second that a node sends.
        down_Bps: Bytes per second that a node receives.
    """
    return links.uniform(n, latency_s, bandwidth_Bps, up_Bps or inf, down_Bps or inf)


@plugin("network")
def lan(
    n: int, *, latency_s: Seconds = 108e-6, bandwidth_Bps: Bandwidth = 125e6
) -> Network:
    """Connect all nodes to one switch by Gigabit Ethernet.

    1 Gbit/s full duplex per node (IEEE 802.3ab, 1999); 108 us one way, half of the
    median round trip of 216 us, kernel included, between servers at one switch (Guo
    et al., "Pingmesh", SIGCOMM 2015).

    Args:
        n: Number of nodes.
        latency_s: Seconds of a message one way.
        bandwidth_Bps: Bytes per second of a node, in each direction.
    """
    return links.uniform(n, latency_s, bandwidth_Bps, bandwidth_Bps, bandwidth_Bps)


@plugin("network")
def datacenter(
    n: int, *, latency_s: Seconds = 134e-6, bandwidth_Bps: Bandwidth = 3.125e9
) -> Network:
    """Connect all nodes through a data centre's fabric, 25 Gbit/s per node.

    134 us one way, half of the median round trip of 268 us, kernel included,
    between servers of different pods (Guo et al., "Pingmesh", SIGCOMM 2015); 25
    Gbit/s between two instances of one availability zone (Amazon EC2 user guide,
    "EC2 instance network bandwidth", ENA Express).

    Args:
        n: Number of nodes.
        latency_s: Seconds of a message one way.
        bandwidth_Bps: Bytes per second of a node, in each direction.
    """
    return links.uniform(n, latency_s, bandwidth_Bps, bandwidth_Bps, bandwidth_Bps)


# Mean round trips in milliseconds: N. Virginia, Oregon, Ireland, Frankfurt, Tokyo,
# Singapore.
_ROUND_TRIPS_MS = (
    (0.54, 88.0, 80.5, 88.6, 145.3, 216.7),
    (88.0, 0.54, 137.0, 159.5, 89.1, 161.4),
    (80.5, 137.0, 0.54, 19.6, 212.4, 238.6),
    (88.6, 159.5, 19.6, 0.54, 236.6, 325.9),
    (145.3, 89.1, 212.4, 236.6, 0.54, 73.8),
    (216.7, 161.4, 238.6, 325.9, 73.8, 0.54),
)


@plugin("network")
def cloud(
    n: int,
    *,
    regions: Annotated[int, Ge(1), Le(6)] = 4,
    inside_Bps: Bandwidth = 1.25e9,
    between_Bps: Bandwidth = 0.625e9,
) -> Network:
    """Spread the nodes over regions of a public cloud, neighbours in number in the
    same region.

    The regions are, in this order, N. Virginia, Oregon, Ireland, Frankfurt, Tokyo
    and Singapore; half of the mean round trips between them ("Latency between AWS
    global regions", 2017 table), and within one half of 0.54 ms (twice 268 us, two
    zones: Guo et al., SIGCOMM 2015). An instance sends up to 10 Gbit/s inside its
    region and 5 Gbit/s to others, a single flow no more than 5 Gbit/s (Amazon EC2
    user guide, "EC2 instance network bandwidth").

    Args:
        n: Number of nodes.
        regions: Number of regions, at most six.
        inside_Bps: Bytes per second of an instance inside its region.
        between_Bps: Bytes per second of an instance to other regions.
    """
    site = np.arange(n) * regions // n
    latency_s = np.array(_ROUND_TRIPS_MS)[:regions, :regions] / 2e3
    bandwidth_Bps = np.full((regions, regions), between_Bps)
    # A single flow gets no more than 5 Gbit/s, also inside a region.
    np.fill_diagonal(bandwidth_Bps, min(inside_Bps, 0.625e9))
    return links.sites(
        site, latency_s, bandwidth_Bps, up_Bps=inside_Bps, down_Bps=inside_Bps
    )


@plugin("network")
def sites(
    n: int,
    *,
    count: Count = 2,
    latency_s: Seconds = 50e-3,
    bandwidth_Bps: Bandwidth = 12.5e6,
    inside_latency_s: Seconds = 108e-6,
    inside_Bps: Bandwidth = 125e6,
) -> Network:
    """Divide the nodes among sites, neighbours in number together, with slow links
    between sites.

    Inside a site a link is a ``lan``'s; ``latency_s`` and ``bandwidth_Bps`` are
    those of every link between nodes of different sites.

    Args:
        n: Number of nodes.
        count: Number of sites.
        latency_s: Seconds of a message one way.
        bandwidth_Bps: Bytes per second of a link.
        inside_latency_s: Seconds of a message one way inside a site.
        inside_Bps: Bytes per second of a link inside a site.
    """
    site = np.arange(n) * count // n
    latency = np.full((count, count), latency_s)
    bandwidth = np.full((count, count), bandwidth_Bps)
    np.fill_diagonal(latency, inside_latency_s)
    np.fill_diagonal(bandwidth, inside_Bps)
    return links.sites(site, latency, bandwidth, up_Bps=inf, down_Bps=inf)


@plugin("network")
def home(
    n: int,
    *,
    latency_s: Seconds = 21e-3,
    up_Bps: Bandwidth = 5.7175e6,
    down_Bps: Bandwidth = 10.71625e6,
) -> Network:
    """Connect nodes that stand in homes: fast down, half as fast up.

    Global means of fixed broadband: 45.74 Mbit/s up, 85.73 Mbit/s down, 21 ms round
    trip to a nearby server (Speedtest Global Index, September 2020); from home to
    home a message takes half of it to leave and half to arrive.

    Args:
        n: Number of nodes.
        latency_s: Seconds of a message one way.
        up_Bps: Bytes per second that a node sends.
        down_Bps: Bytes per second that a node receives.
    """
    return links.uniform(n, latency_s, min(up_Bps, down_Bps), up_Bps, down_Bps)


@plugin("network")
def satellite(
    n: int,
    *,
    latency_s: Seconds = 45e-3,
    up_Bps: Bandwidth = 1.855e6,
    down_Bps: Bandwidth = 13.08875e6,
) -> Network:
    """Connect nodes by satellites in low orbit: 14.84 Mbit/s up, 104.71 Mbit/s
    down.

    Medians of Starlink in the United States, and 45 ms round trip to a nearby
    server (Ookla, first half of 2025); from node to node a message takes half of it
    to leave and half to arrive.

    Args:
        n: Number of nodes.
        latency_s: Seconds of a message one way.
        up_Bps: Bytes per second that a node sends.
        down_Bps: Bytes per second that a node receives.
    """
    return links.uniform(n, latency_s, min(up_Bps, down_Bps), up_Bps, down_Bps)


# --- networks from graphs ---------------------------------------------------------


#: What a link may carry, and what a link lacks in a network where no link carries
#: it.
_CARRIED = {"latency_s": 0.0, "bandwidth_Bps": inf}
#: What a node may carry: the capacity of its line, as text or in bytes per second.
_LINES = {"up": "up_Bps", "down": "down_Bps"}


def carries_links(graph: Any) -> bool:
    """Whether any link of a graph says what it costs."""
    return any(_CARRIED.keys() & data.keys() for _, _, data in graph.edges(data=True))


def network_of(graph: Any, name: str) -> Network:
    """Return the network whose sites are a graph's nodes; messages may go over
    several links.

    Nodes are numbered as in a topology. Links carry ``latency_s`` and
    ``bandwidth_Bps``, nodes perhaps ``up`` and ``down``. Raises ConfigError for
    impossible costs.
    """
    graph = number_nodes(graph)
    nodes, labels = len(graph), labels_of(graph)
    # No way as long as no link says otherwise; ``routed`` finds ways over others.
    latency_s, bandwidth_Bps = np.full((nodes, nodes), inf), np.zeros((nodes, nodes))
    for (one, other), (seconds, rate) in _link_quality(graph, name).items():
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
    return route(Network(np.arange(nodes), latency_s, bandwidth_Bps, **lines))


def _link_quality(graph: Any, name: str) -> dict[tuple[int, int], tuple[float, float]]:
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
        # A default for one link among measured ones would look like a measurement.
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
