"""Where to draw the nodes of a topology: on a circle, or such that distance shows hops."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from decentral.report.reader import Topology

Positions = NDArray[np.float64]  # [n, 2]

MOST_LINKS = 4000  # Drawn; of more, a sample.

_DENSE = 4  # Links per node beyond which hops say little and a circle reads better.
_LARGEST = 1100  # Nodes up to which all pairs of hops are affordable (about 2 s).


def positions(topology: Topology) -> Positions:
    """Return a point in the plane for every node, the same for the same topology."""
    n = topology.nodes
    if n < 3 or n > _LARGEST or len(topology.links) > _DENSE * n or _is_circulant(topology):
        return _circle(n)
    return _by_hops(_hops(topology))


def _circle(n: int) -> Positions:
    # Node 0 above, the others clockwise, as on a clock.
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / max(n, 1)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _is_circulant(topology: Topology) -> bool:
    """Tell whether every node has the same offsets to its neighbours, as in a ring."""
    n = topology.nodes
    ends = {(a, b) for a, b in topology.links} | {(b, a) for a, b in topology.links}
    offsets = Counter((b - a) % n for a, b in ends)
    # All offsets that occur do so at every node.
    return all(count == n for count in offsets.values())


def _hops(topology: Topology) -> Positions:
    """Return hops between all pairs, [n, n]; pairs without a path lie a little further apart."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    n, ends = topology.nodes, np.array(topology.links, dtype=np.int64).reshape(-1, 2).T
    linked = csr_array((np.ones(ends.shape[1]), tuple(ends)), shape=(n, n))
    hops = shortest_path(linked, "D", directed=False, unweighted=True)
    reached = np.isfinite(hops)
    # Parts without a path are drawn apart, but not at infinity.
    return np.where(reached, hops, hops[reached].max() + 2)


def _by_hops(hops: Positions, rounds: int = 60) -> Positions:
    """Minimise stress, sum (|x_i - x_j| - hops_ij)^2, by majorisation (de Leeuw, 1977)."""
    points = _classical_scaling(hops)
    n = len(hops)
    for _ in range(rounds if n > 256 else 4 * rounds):
        apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
        # Nodes at one point do not pull at each other: the direction is not known.
        ratio = np.divide(hops, apart, out=np.zeros_like(hops), where=apart > 1e-9)
        points = (ratio.sum(1, keepdims=True) * points - ratio @ points) / n
    return points


def _classical_scaling(hops: Positions) -> Positions:
    centred = hops**2 - (hops**2).mean(0)
    values, vectors = np.linalg.eigh(-(centred - centred.mean(1, keepdims=True)) / 2)
    points = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    # Equal points never part under majorisation: the least, repeatable disorder separates them.
    return points + 1e-3 * np.random.default_rng(0).standard_normal(points.shape)
