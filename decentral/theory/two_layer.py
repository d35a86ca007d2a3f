"""Two-layer linear networks f(x) = a^T W x: how fast noise, or a shaken second layer, shrinks W."""

from __future__ import annotations

from math import sqrt

import numpy as np


def decay_rate(lr: float, noise: float, first: float, second: float, dimension: int) -> float:
    """Return by how much ln |W| falls in a step of SGD on one sample under label noise.

    r = lr^2 noise^2 / (2 (1 - lr K / 2)) (1 - d |a|^2 / |W|^2) with K = |W|^2 + d |a|^2, for inputs
    of independent standard coordinates, where the noiseless residual is zero: a step moves |W|^2 -
    |a|^2 by lr^2 e^2 (|a|^2 |x|^2 - |Wx|^2), and E[e^2] = noise^2 / (1 - lr K / 2). ``first`` is
    |W|^2, ``second`` |a|^2, ``dimension`` d. (After Zhang et al., "On the learning dynamics of
    two-layer linear networks with label noise SGD", AAAI 2026.)

    >>> f"{decay_rate(1e-3, 4.0, first=1000.0, second=1.0, dimension=20):.2e}"
    '1.60e-05'
    """
    curvature = first + dimension * second
    return lr**2 * noise**2 / (2 - lr * curvature) * (1 - dimension * second / first)


def shaken_norm(
    amplitude: float,
    seed: int = 0,
    *,
    steps: int = 10_000,
    lr: float = 5e-3,
    width: int = 200,
    dimension: int = 20,
    samples: int = 200,
) -> tuple[float, float]:
    """Return a neuron's mean norm before and after gradient descent while a is shaken.

    Full batches without label noise; after each step a += amplitude N(0, 1/m). Loss
    1/(2n) sum (a^T W x_i - t^T x_i)^2, W_ij ~ N(0, 1/d), a_j ~ N(0, 1/m). (The same paper.)

    Args:
        amplitude: Size of the shaking of a.
        seed: Seed of data, weights and shaking.
        steps: Steps of gradient descent.
        lr: Learning rate.
        width: Neurons, m.
        dimension: Dimension of the inputs, d.
        samples: Number of samples, n.
    """
    random = np.random.default_rng(seed)
    truth = random.standard_normal(dimension)
    truth /= np.linalg.norm(truth)
    inputs = random.standard_normal((samples, dimension))
    covariance = inputs.T @ inputs / samples
    weight = random.standard_normal((width, dimension)) / sqrt(dimension)
    outer = random.standard_normal(width) / sqrt(width)
    before = float(np.linalg.norm(weight, axis=1).mean())
    for _ in range(steps):
        slope = covariance @ (weight.T @ outer - truth)
        # Both from the old values: gradient descent moves all at once.
        weight, outer = weight - lr * np.outer(outer, slope), outer - lr * (weight @ slope)
        outer += amplitude * random.standard_normal(width) / sqrt(width)
    return before, float(np.linalg.norm(weight, axis=1).mean())
