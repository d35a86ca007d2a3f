"""Weights of links: functions (receivers, senders, nodes) -> weights of the links
that are on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral.registry import Count, Share, plugin


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def metropolis(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + max(d_i, d_j)): symmetric, hence doubly stochastic, from
    neighbours' degrees.

    Degrees count the links that are on in the round (Xiao & Boyd, "Fast linear
    iterations for distributed averaging", 2004).

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
    """
    degree = np.bincount(receivers, minlength=nodes)
    return 1.0 / (1.0 + np.maximum(degree[receivers], degree[senders]))


@plugin("weights")
def uniform(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_i): the plain mean of what a node holds and receives.

    Doubly stochastic only on regular graphs; elsewhere the nodes agree on a
    degree-weighted mean.

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
    """
    degree = np.bincount(receivers, minlength=nodes)
    return np.reciprocal(1.0 + degree[receivers].astype(np.float64))


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def max_degree(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_max): every link weighs the same; slow where degrees differ
    much.

    d_max is the largest degree of the round (Xiao & Boyd, "Fast linear iterations
    for distributed averaging", 2004).

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
    """
    # Of this round: where links are off, those that are on may weigh more.
    largest = np.bincount(receivers, minlength=nodes).max()
    return np.full(len(receivers), 1.0 / (1.0 + largest))


@plugin("weights", undirected=True, doubly_stochastic=True, symmetric=True)
def lazy(
    receivers: NDArray[np.int64],
    senders: NDArray[np.int64],
    nodes: int,
    *,
    keep: Share = 0.5,
) -> NDArray[np.float64]:
    """Metropolis-Hastings weights times 1 - keep: W = keep I + (1 - keep)
    W_metropolis.

    With keep = 1/2 no eigenvalue is negative, so that models approach each other
    without overshooting (Boyd et al., "Randomized gossip algorithms", 2006).

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
        keep: Weight of a node's own row, on top.
    """
    return (1.0 - keep) * metropolis(receivers, senders, nodes)


@plugin("weights", keeps="unsent")
def push(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + out-degree of j): columns sum to one, from what a sender
    knows of itself.

    Sums are kept on any directed graph, but averages only by the algorithm
    ``push_sum`` (Kempe, Dobra & Gehrke, "Gossip-based computation of aggregate
    information", 2003).

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
    """
    degree = np.bincount(senders, minlength=nodes)
    return np.reciprocal(1.0 + degree[senders].astype(np.float64))


@plugin("weights", keeps="nothing", undirected=True, symmetric=True)
def relay(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], nodes: int
) -> NDArray[np.float64]:
    """w_ij = 1, w_ii = 0: what neighbours say, added up, for the algorithm
    ``relay_sum``.

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
    """
    return np.ones(len(receivers))


Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A link that the best weights do without keeps this much, so that weights stay
#: positive.
_LEAST = 1e-6


@plugin(
    "weights",
    undirected=True,
    doubly_stochastic=True,
    symmetric=True,
    fixed=True,
    signed=lambda settings: not settings["nonnegative"],
    example="fastest_mixing(steps=40)",
)
def fastest_mixing(
    receivers: Integers,
    senders: Integers,
    nodes: int,
    *,
    nonnegative: bool = True,
    steps: Count = 300,
) -> Floats:
    """The symmetric weights with the largest gap on this graph, from the whole
    graph at once.

    Minimises mu = max(lambda_2, -lambda_n) over w >= 0 with sum_j w_ij <= 1,
    beginning with Metropolis-Hastings: ``steps`` subgradient steps of length
    1/sqrt(t), with d lambda / d w_ij = -(v_i - v_j)^2, then scaled back (Boyd,
    Diaconis & Xiao, "Fastest mixing Markov chain on a graph", 2004). Where they use
    one extreme eigenvector, all that are nearly extreme count: on symmetric graphs
    eigenvalues come in groups. The best point is returned.

    Without the bounds (Xiao & Boyd, "Fast linear iterations for distributed
    averaging", 2004) the gap can be larger: 0.1176 on a star of 16, where it is
    0.0667 with them. Some weights are then negative, a hub's own most of all, and
    models may move apart in rounds with links that are off.

    Args:
        receivers: Receiving node of each directed link, [m].
        senders: Sending node of each directed link, [m].
        nodes: Number of nodes.
        nonnegative: Whether all weights, a node's own too, are to be at least 0.
        steps: Subgradient steps.
    """
    # Each link once, though both its directions are given: the weights are
    # symmetric.
    upper = receivers < senders
    ends = (receivers[upper], senders[upper])
    weights = metropolis(receivers, senders, nodes)[upper]
    if not nonnegative and len(weights):
        weights = min(
            weights, _best_constant(ends, nodes), key=lambda w: _mu(ends, w, nodes)
        )
    best, least = weights, np.inf
    for step in range(steps if len(weights) else 0):
        # Without J the eigenvalue 1 of the mean is gone: the largest left is mu.
        values, vectors = np.linalg.eigh(_mixing(ends, weights, nodes) - 1.0 / nodes)
        second = float(np.abs(values).max())
        if second < least:
            best, least = weights, second
        # Eigenvalues close to the extreme count less and less as the steps get
        # shorter.
        slope = _slope(ends, values, vectors, sharpness=20.0 * (1 + step) ** 0.75)
        # In proportion to the weights, which shrink as degrees grow; the slope's
        # own length says nothing of how far to go.
        length = 0.3 * np.linalg.norm(best) / np.sqrt(1.0 + step)
        moved = weights - length * slope / max(float(np.linalg.norm(slope)), 1e-300)
        weights = (
            _scale_back(ends, np.maximum(moved, _LEAST), nodes) if nonnegative else moved
        )
    places = np.zeros((nodes, nodes))
    places[ends] = best
    return (places + places.T)[receivers, senders]


def _best_constant(ends: tuple[Integers, Integers], nodes: int) -> Floats:
    """Return 2 / (l_2 + l_n) of the Laplacian: the best where all links weigh the
    same.
    """
    ones = np.ones(len(ends[0]))
    # I - W with weights of 1 is the Laplacian; its first eigenvalue is 0.
    spectrum = np.linalg.eigvalsh(np.eye(nodes) - _mixing(ends, ones, nodes))
    return ones * 2.0 / max(float(spectrum[1] + spectrum[-1]), 1e-300)


def _mu(ends: tuple[Integers, Integers], weights: Floats, nodes: int) -> float:
    """Return what a round leaves of disagreement, at most.

    Args:
        ends: Lower and higher node of each link, [m] each.
        weights: Of the links, [m].
        nodes: Number of nodes.
    """
    return float(
        np.abs(np.linalg.eigvalsh(_mixing(ends, weights, nodes) - 1.0 / nodes)).max()
    )


def _mixing(ends: tuple[Integers, Integers], weights: Floats, nodes: int) -> Floats:
    matrix = np.zeros((nodes, nodes))
    matrix[ends] = weights
    matrix += matrix.T
    np.fill_diagonal(matrix, 1.0 - matrix.sum(1))
    return matrix


def _slope(
    ends: tuple[Integers, Integers], values: Floats, vectors: Floats, sharpness: float
) -> Floats:
    """Return the slope of mu in every weight, eigenvectors weighed by how extreme
    they are.
    """
    size = np.abs(values)
    # A softmax; less the maximum, so that nothing overflows.
    share = np.exp(sharpness * (size - size.max()))
    apart = (vectors[ends[0]] - vectors[ends[1]]) ** 2  # [links, nodes]
    return -(apart @ (np.sign(values) * share / share.sum()))


def _scale_back(ends: tuple[Integers, Integers], weights: Floats, nodes: int) -> Floats:
    """Shrink the links of nodes that give away more than everything."""
    given = np.bincount(
        np.concatenate(ends), np.concatenate((weights, weights)), minlength=nodes
    )
    return weights / np.maximum(1.0, np.maximum(given[ends[0]], given[ends[1]]))
