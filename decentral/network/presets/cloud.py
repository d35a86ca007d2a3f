"""Regions of a cloud."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from decentral.network.links import Network, sites
from decentral.registry import plugin
from decentral.units import Bandwidth

# Mean round trips in milliseconds: N. Virginia, Oregon, Ireland, Frankfurt, Tokyo, Singapore.
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
    """Spread the nodes over regions of a public cloud, neighbours in number in the same region.

    The regions are, in this order, N. Virginia, Oregon, Ireland, Frankfurt, Tokyo and Singapore;
    half of the mean round trips between them ("Latency between AWS global regions", 2017 table),
    and within one half of 0.54 ms (twice 268 us, two zones: Guo et al., SIGCOMM 2015). An instance
    sends up to 10 Gbit/s inside its region and 5 Gbit/s to others, a single flow no more than
    5 Gbit/s (Amazon EC2 user guide, "EC2 instance network bandwidth").
    """
    site = np.arange(n) * regions // n
    latency_s = np.array(_ROUND_TRIPS_MS)[:regions, :regions] / 2e3
    bandwidth_Bps = np.full((regions, regions), between_Bps)
    np.fill_diagonal(bandwidth_Bps, min(inside_Bps, 0.625e9))
    return sites(site, latency_s, bandwidth_Bps, up_Bps=inside_Bps, down_Bps=inside_Bps)
