"""All links alike."""

from __future__ import annotations

from math import inf

from decentral.network import links
from decentral.network.links import Network
from decentral.registry import plugin
from decentral.units import Bandwidth, Seconds


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

    A message of b bytes takes latency + b / bandwidth; ``up_Bps`` and ``down_Bps`` are the capacity
    of a node's own line, shared by its simultaneous transfers (none: unlimited).
    """
    return links.uniform(n, latency_s, bandwidth_Bps, up_Bps or inf, down_Bps or inf)
