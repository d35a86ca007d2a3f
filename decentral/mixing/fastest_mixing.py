"""Fastest mixing weights for a fixed graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.mixing.metropolis import metropolis
from decentral.registry import Count, plugin

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A link that the best weights do without keeps this much, so that weights stay positive.
_LEAST = 1e-6


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True, fixed=True)
def fastest_mixing(
    receivers: Integers, senders: Integers, nodes: int, *, steps: Count = 300
) -> Floats:
    """The symmetric weights with the largest gap on this graph, from the whole graph at once.

    Minimises mu = max(lambda_2, -lambda_n) over w >= 0 with sum_j w_ij <= 1, beginning with
    Metropolis-Hastings: ``steps`` subgradient steps of length 1/sqrt(t), with
    d lambda / d w_ij = -(v_i - v_j)^2, then scaled back (Boyd, Diaconis & Xiao, "Fastest mixing
    Markov chain on a graph", 2004). Where they use one extreme eigenvector, all that are nearly
    extreme count: on symmetric graphs eigenvalues come in groups. The best point is returned.
    """
    upper = receivers < senders
    ends = (receivers[upper], senders[upper])
    weights = metropolis(receivers, senders, nodes)[upper]
    best, least = weights, np.inf
    for step in range(steps if len(weights) else 0):
        values, vectors = np.linalg.eigh(_mixing(ends, weights, nodes) - 1.0 / nodes)
        second = float(np.abs(values).max())
        if second < least:
            best, least = weights, second
        slope = _slope(ends, values, vectors, sharpness=20.0 * (1 + step) ** 0.75)
        length = 0.3 * np.linalg.norm(best) / np.sqrt(1.0 + step)
        moved = weights - length * slope / max(float(np.linalg.norm(slope)), 1e-300)
        weights = _scaled_back(ends, np.maximum(moved, _LEAST), nodes)
    places = np.zeros((nodes, nodes))
    places[ends] = best
    return (places + places.T)[receivers, senders]


def _mixing(ends: tuple[Integers, Integers], weights: Floats, nodes: int) -> Floats:
    matrix = np.zeros((nodes, nodes))
    matrix[ends] = weights
    matrix += matrix.T
    np.fill_diagonal(matrix, 1.0 - matrix.sum(1))
    return matrix


def _slope(
    ends: tuple[Integers, Integers], values: Floats, vectors: Floats, sharpness: float
) -> Floats:
    """Return the slope of mu in every weight, eigenvectors weighed by how extreme they are."""
    size = np.abs(values)
    share = np.exp(sharpness * (size - size.max()))
    apart = (vectors[ends[0]] - vectors[ends[1]]) ** 2  # [links, nodes]
    return -(apart @ (np.sign(values) * share / share.sum()))


def _scaled_back(ends: tuple[Integers, Integers], weights: Floats, nodes: int) -> Floats:
    """Shrink the links of nodes that give away more than everything."""
    given = np.bincount(np.r_[ends], np.r_[weights, weights], minlength=nodes)
    return weights / np.maximum(1.0, np.maximum(given[ends[0]], given[ends[1]]))
