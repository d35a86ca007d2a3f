"""A function of many pieces that is made of few."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import mse_loss

from decentral import rng
from decentral.registry import Count, plugin
from decentral.tasks import Samples, Task, standardised
from decentral.tasks.circle import DEFAULTS

#: Distance between the centres of neighbouring intervals, and half of an interval's length.
SPACING, HALF = 1.5, 0.5


@plugin("task", defaults=DEFAULTS)
def pieces(
    seed: int,
    *,
    coordinates: Count = 2,
    intervals: Count = 3,
    samples: Count = 16_384,
    test: Count = 4096,
) -> Task:
    """Learn f(x) = prod_l q_{l,i(l)}(u_l): intervals^coordinates pieces of few quadratics.

    Coordinate x_l lies in one of ``intervals`` separated intervals, i(l), at the place u_l in
    [-1, 1] of it; the q are quadratics with Gaussian coefficients. Targets have mean 0 and variance
    1. (Wang & E, "On the expressive power of mixture-of-experts for structured complex tasks",
    2025: E^L pieces from L x E functions.)
    """
    sample, axis = np.arange(samples + test)[:, None], np.arange(coordinates)
    which = rng.integers(
        np.full((len(sample), coordinates), intervals), seed, "pieces/interval", sample, axis
    )
    place = 2 * rng.uniform(seed, "pieces/place", sample, axis) - 1
    shape = np.arange(coordinates)[:, None, None], np.arange(intervals)[:, None], np.arange(3)
    weights = rng.normal(seed, "pieces/quadratic", *shape)
    value = np.ones(len(sample))
    for level in range(coordinates):
        powers = place[:, level, None] ** np.arange(3)
        value *= (weights[level, which[:, level]] * powers).sum(1)
    inputs = torch.from_numpy(centres(intervals)[which] + HALF * place).float()
    targets = torch.from_numpy(standardised(value)).float().unsqueeze(1)
    return Task(
        loss=mse_loss,
        train=Samples(inputs[:samples], targets[:samples]),
        test=Samples(inputs[samples:], targets[samples:]),
    )


def centres(intervals: int) -> NDArray[np.float64]:
    """Return the centres of the intervals of one coordinate.

    >>> centres(3).tolist()
    [-1.5, 0.0, 1.5]
    """
    return SPACING * (np.arange(intervals, dtype=np.float64) - (intervals - 1) / 2)


def affine_slopes(levels: int, experts: int) -> NDArray[np.float64]:
    """Return the slope vectors [experts^levels, levels] of a target with that many affine pieces.

    Level l offers the slopes a_{l,i}, a grid in [-1, 1]; a piece takes one of each level.

    >>> affine_slopes(2, 2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    grid = np.linspace(-1.0, 1.0, experts)
    return np.stack(np.meshgrid(*[grid] * levels, indexing="ij"), -1).reshape(-1, levels)


def routed(x: NDArray[np.float64], which: NDArray[np.int64], experts: int) -> NDArray[np.float64]:
    """Return what ``levels`` layers of affine experts give: layer l adds a_{l,i(l)} x_l, [B]."""
    grid, h = np.linspace(-1.0, 1.0, experts), np.zeros(len(x))
    for level in range(x.shape[1]):
        h = h + grid[which[:, level]] * x[:, level]
    return h


def one_layer_error(levels: int, experts: int, starts: int = 200) -> float:
    """Return the least relative error of one layer with the same levels x experts affine experts.

    It has to stand for experts^levels slope vectors with levels x experts of its own: the best of
    ``starts`` runs of k-means, relative to the mean square of the slopes. Offsets are ignored,
    which favours the single layer.
    """
    from sklearn import cluster

    slopes = affine_slopes(levels, experts)
    means: Any = cluster.KMeans
    found = means(levels * experts, n_init=starts, random_state=0).fit(slopes)
    return float(found.inertia_ / (slopes**2).sum())
