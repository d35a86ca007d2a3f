"""A local network."""

from __future__ import annotations

from decentral.network.links import Network, uniform
from decentral.registry import plugin
from decentral.units import Bandwidth, Seconds


@plugin("network")
def lan(n: int, *, latency_s: Seconds = 108e-6, bandwidth_Bps: Bandwidth = 125e6) -> Network:
    """Connect all nodes to one switch by Gigabit Ethernet.

    1 Gbit/s full duplex per node (IEEE 802.3ab, 1999); 108 us one way, half of the median round
    trip of 216 us, kernel included, between servers at one switch (Guo et al., "Pingmesh", SIGCOMM
    2015).
    """
    return uniform(n, latency_s, bandwidth_Bps, bandwidth_Bps, bandwidth_Bps)
