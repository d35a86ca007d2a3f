"""What lies between nodes: latency and bandwidth of links, capacity of every node's
own line.

Legend: ``N`` nodes, ``S`` sites; ``latency_s`` is seconds one way, ``Bps`` bytes
per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log2
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

AllReduce = Literal["auto", "ring", "tree"]


@dataclass(frozen=True)
class Network:
    """Sites, the links between them, and the lines by which nodes are connected.

    Two nodes of one site are linked through the diagonal of the matrices. The
    capacity of a node's line is shared by all that it sends (``up``), or receives
    (``down``), at the same time.
    """

    site: Integers  # [N]
    latency_s: Floats  # [S, S], from row to column
    bandwidth_Bps: Floats  # [S, S]
    up_Bps: Floats  # [N]
    down_Bps: Floats  # [N]

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return len(self.site)

    def cost(self, senders: Integers, receivers: Integers) -> tuple[Floats, Floats]:
        """Return latency and bandwidth of the ways from senders to receivers."""
        ends = self.site[senders], self.site[receivers]
        return self.latency_s[ends], self.bandwidth_Bps[ends]


def uniform(
    nodes: int,
    latency_s: float,
    bandwidth_Bps: float,
    up_Bps: float = inf,
    down_Bps: float = inf,
) -> Network:
    """Return a network in which every link is like every other.

    Args:
        nodes: Number of nodes.
        latency_s: Seconds of a message one way.
        bandwidth_Bps: Bytes per second of a link.
        up_Bps: Bytes per second that a node sends.
        down_Bps: Bytes per second that a node receives.

    >>> uniform(3, 0.01, 1e6).latency_s.tolist()
    [[0.01]]
    """
    site = np.zeros(nodes, np.int64)
    return sites(site, [[latency_s]], [[bandwidth_Bps]], up_Bps=up_Bps, down_Bps=down_Bps)


def sites(
    site: Integers, latency_s: Any, bandwidth_Bps: Any, *, up_Bps: float, down_Bps: float
) -> Network:
    """Return a network of sites whose nodes all have the same line.

    Args:
        site: Site of every node, [N].
        latency_s: Seconds one way between sites, [S, S].
        bandwidth_Bps: Bytes per second of a link between sites, [S, S].
        up_Bps: Bytes per second that a node sends.
        down_Bps: Bytes per second that a node receives.
    """
    nodes = len(site)
    return Network(
        site,
        np.asarray(latency_s, dtype=np.float64),
        np.asarray(bandwidth_Bps, dtype=np.float64),
        np.full(nodes, up_Bps),
        np.full(nodes, down_Bps),
    )


def route(direct: Network) -> Network:
    """Return a network in which nodes without a link of their own reach each other
    over others.

    A message takes the way of least latency, at the bandwidth of its narrowest
    link: one pass over the places to change (Floyd, "Algorithm 97: Shortest path",
    1962), S^3 operations.
    """
    latency_s, bandwidth_Bps = direct.latency_s.copy(), direct.bandwidth_Bps.copy()
    np.fill_diagonal(latency_s, 0.0)
    np.fill_diagonal(bandwidth_Bps, inf)
    for via in range(len(latency_s)):
        # All ways over ``via`` at once: rows of those who get there, columns of
        # those beyond.
        around_s = latency_s[:, via, None] + latency_s[via]
        narrow_Bps = np.minimum(bandwidth_Bps[:, via, None], bandwidth_Bps[via])
        # Of ways of the same latency the widest one.
        equal = (
            np.isfinite(around_s) & (around_s == latency_s) & (narrow_Bps > bandwidth_Bps)
        )
        better = (around_s < latency_s) | equal
        latency_s[better], bandwidth_Bps[better] = around_s[better], narrow_Bps[better]
    return Network(direct.site, latency_s, bandwidth_Bps, direct.up_Bps, direct.down_Bps)


# --- one round, one all-reduce ----------------------------------------------------


def gossip(
    network: Network,
    ready_s: Floats,  # [N]
    senders: Integers,  # [messages]
    receivers: Integers,  # [messages]
    size: float,
    arrives: NDArray[np.bool_] | None = None,  # [messages]
) -> Floats:
    """Return when every node has received all its messages of ``size`` bytes and
    sent its own, [N].

    Node j begins to send at ``ready_s[j]``, all its messages at once: each gets an
    equal share of the line, r = min(bandwidth, up_j / messages of j), and has left
    size / r later. It arrives latency later still, unless the receiver's line is
    too narrow: whatever arrives from some moment on takes at least its bytes /
    down_i after it. Nobody waits for what never ``arrives``.

    Args:
        network: Links and lines.
        ready_s: When each node begins to send, [N].
        senders: Sending node of every message, [messages].
        receivers: Receiving node of every message, [messages].
        size: Bytes of a message.
        arrives: Whether a message arrives, [messages]; none: all do.
    """
    if not len(senders):
        return ready_s
    latency_s, rate = network.cost(senders, receivers)
    sent = np.bincount(senders, minlength=network.nodes)
    # All messages of a node leave at the same time, and share its line evenly.
    rate = np.minimum(rate, network.up_Bps[senders] / sent[senders])
    begins_s = ready_s[senders]
    left_s = begins_s + size / rate
    done_s = ready_s.copy()
    np.maximum.at(done_s, senders, left_s)
    if arrives is not None:
        begins_s, left_s, latency_s = (
            begins_s[arrives],
            left_s[arrives],
            latency_s[arrives],
        )
        receivers = receivers[arrives]
    arrived_s = np.maximum(
        left_s + latency_s,
        _queue(network.down_Bps, begins_s + latency_s, receivers, size),
    )
    np.maximum.at(done_s, receivers, arrived_s)
    return done_s


def _queue(
    down_Bps: Floats, begins_s: Floats, receivers: Integers, size: float
) -> Floats:
    """Return when a receiver's line has taken in all that begins to arrive from
    each moment on.
    """
    order = np.lexsort((begins_s, receivers))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    ends = np.cumsum(np.bincount(receivers, minlength=len(down_Bps)))
    later = ends[receivers] - places  # messages of the same receiver from this one on
    return begins_s + later * size / down_Bps[receivers]


def all_reduce_s(
    network: Network, members: Integers, size: float, kind: AllReduce = "auto"
) -> float:
    """Return the seconds of one global average of ``size`` bytes among nodes that
    begin together.

    ``auto`` is the faster of ring and tree, as collective libraries choose it.

    Args:
        network: Links and lines.
        members: Nodes that take part, [n].
        size: Bytes that each contributes.
        kind: ``ring``, ``tree`` or ``auto``.
    """
    if len(members) < 2:
        return 0.0
    kinds = {"ring": ring_s, "tree": tree_s}
    chosen = kinds.values() if kind == "auto" else [kinds[kind]]
    return min(way(network, members, size) for way in chosen)


def ring_s(network: Network, members: Integers, size: float) -> float:
    """Return the seconds of a ring all-reduce: 2 (n - 1) steps, each passing on
    size / n bytes.

    On equal links 2 (n - 1) (latency + size / (n bandwidth)). (Patarasuk & Yuan,
    "Bandwidth optimal all-reduce algorithms", 2009.)

    Args:
        network: Links and lines.
        members: Nodes that take part, [n].
        size: Bytes that each contributes.
    """
    count = len(members)
    after = np.roll(members, -1)
    latency_s, rate = network.cost(members, after)
    rate = np.minimum(rate, np.minimum(network.up_Bps[members], network.down_Bps[after]))
    step_s = latency_s + size / count / rate
    if (step_s == step_s[0]).all():
        return 2 * (count - 1) * float(step_s[0])
    done_s, busy_s = np.zeros(count), size / count / rate
    for _ in range(2 * (count - 1)):
        done_s = np.maximum(done_s + busy_s, np.roll(done_s + step_s, 1))
    return float(done_s.max())


def tree_s(network: Network, members: Integers, size: float) -> float:
    """Return the seconds of a binomial tree all-reduce: sums go up to one node, the
    mean down.

    On equal links 2 ceil(log2 n) (latency + size / bandwidth). (Thakur,
    Rabenseifner & Gropp, "Optimization of collective communication operations in
    MPICH", 2005.)

    Args:
        network: Links and lines.
        members: Nodes that take part, [n].
        size: Bytes that each contributes.
    """
    count, levels = len(members), ceil(log2(len(members)))
    total_s = 0.0
    for level in range(levels):
        lower = np.arange(2**level, count, 2 ** (level + 1))
        child, parent = members[lower], members[lower - 2**level]
        for senders, receivers in ((child, parent), (parent, child)):
            latency_s, rate = network.cost(senders, receivers)
            rate = np.minimum(rate, network.up_Bps[senders])
            rate = np.minimum(rate, network.down_Bps[receivers])
            total_s += float((latency_s + size / rate).max())
    return total_s
