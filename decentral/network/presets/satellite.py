"""Satellite links."""

from __future__ import annotations

from decentral.network.links import Network, uniform
from decentral.registry import plugin
from decentral.units import Bandwidth, Seconds


@plugin("network")
def satellite(
    n: int,
    *,
    latency_s: Seconds = 45e-3,
    up_Bps: Bandwidth = 1.855e6,
    down_Bps: Bandwidth = 13.08875e6,
) -> Network:
    """Connect nodes by satellites in low orbit: 14.84 Mbit/s up, 104.71 Mbit/s down.

    Medians of Starlink in the United States, and 45 ms round trip to a nearby server (Ookla, first
    half of 2025); from node to node a message takes half of it to
    leave and half to arrive.
    """
    return uniform(n, latency_s, min(up_Bps, down_Bps), up_Bps, down_Bps)
