"""Broadband at home."""

from __future__ import annotations

from decentral.network.links import Network, uniform
from decentral.registry import plugin
from decentral.units import Bandwidth, Seconds


@plugin("network")
def home(
    n: int,
    *,
    latency_s: Seconds = 21e-3,
    up_Bps: Bandwidth = 5.7175e6,
    down_Bps: Bandwidth = 10.71625e6,
) -> Network:
    """Connect nodes that stand in homes: fast down, half as fast up.

    Global means of fixed broadband: 45.74 Mbit/s up, 85.73 Mbit/s down, 21 ms round trip to a
    nearby server (Speedtest Global Index, September 2020); from home to home a message takes half
    of it to leave and half to arrive.
    """
    return uniform(n, latency_s, min(up_Bps, down_Bps), up_Bps, down_Bps)
