"""A few sites, far from each other."""

from __future__ import annotations

from math import inf

import numpy as np

from decentral.network import links
from decentral.network.links import Network
from decentral.registry import Count, plugin
from decentral.units import Bandwidth, Seconds


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
    """Divide the nodes among sites, neighbours in number together, with slow links between sites.

    Inside a site a link is a ``lan``'s; ``latency_s`` and ``bandwidth_Bps`` are those of every link
    between nodes of different sites.
    """
    site = np.arange(n) * count // n
    latency = np.full((count, count), latency_s)
    bandwidth = np.full((count, count), bandwidth_Bps)
    np.fill_diagonal(latency, inside_latency_s)
    np.fill_diagonal(bandwidth, inside_Bps)
    return links.sites(site, latency, bandwidth, up_Bps=inf, down_Bps=inf)
