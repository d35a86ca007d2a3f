"""A data centre."""

from __future__ import annotations

from decentral.network.links import Network, uniform
from decentral.registry import plugin
from decentral.units import Bandwidth, Seconds


@plugin("network")
def datacenter(
    n: int, *, latency_s: Seconds = 134e-6, bandwidth_Bps: Bandwidth = 3.125e9
) -> Network:
    """Connect all nodes through a data centre's fabric, 25 Gbit/s per node.

    134 us one way, half of the median round trip of 268 us, kernel included, between servers of
    different pods (Guo et al., "Pingmesh", SIGCOMM 2015); 25 Gbit/s between two instances of one
    availability zone (Amazon EC2 user guide, "EC2 instance network bandwidth", ENA Express).
    """
    return uniform(n, latency_s, bandwidth_Bps, bandwidth_Bps, bandwidth_Bps)
