"""GradPower."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.registry import Positive, plugin

Floats = NDArray[np.float64]

#: Midpoints of the quadrature, and how far into the tails it reaches.
_POINTS, _REACH = 400_001, 40.0


@plugin(
    "claim",
    tiny={},
    paper="Wang et al., GradPower: powering gradients for faster language model pre-training, "
    "ICML 2026",
    says="Raising gradients to a power p > 1 speeds up Adam where bounded noise dominates: the "
    "normalized drift R_p = E[phi_p(g)] / sqrt(E[phi_p(g)^2]) grows with p.",
    expect=(
        Expectation(
            "two-point noise, p 1.2", "where noise dominates, R_p is proportional to p",
            low=1.18, high=1.22,
        ),
        Expectation(
            "two-point noise, p 2", "also for large p", low=1.9, high=2.0,
        ),
        Expectation("uniform noise, p 1.2", "it holds for uniform noise", low=1.04, high=1.08),
        Expectation(
            "weak noise, p 1.2", "without noise there is next to nothing to gain", low=0.99,
            high=1.0,
        ),
        Expectation("Gaussian noise, p 1.2", "Gaussian noise gains, too", low=1.0),
        Expectation("Laplace noise, p 1.2", "heavy-tailed noise gains, too", low=1.0),
    ),
)  # fmt: skip
def gradpower(lab: Lab, seed: int, *, ratio: Positive = 10.0) -> Findings:
    """Compute R_p / R_1 for g = mu + sigma xi exactly, sigma = ``ratio`` mu, for four kinds of xi.

    The gain needs noise with light tails: this is a limit of the theory at this level, and the last
    two expectations, which take the claim at its word, are there to show it. What GradPower does to
    a small language model stands in the documentation of the optimizers.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        ratio: Size of the noise over that of the gradient.
    """
    powers = [0.8, 1.0, 1.2, 1.5, 2.0]
    gains = {
        name: [drift(name, ratio, p) / drift(name, ratio, 1.0) for p in powers]
        for name in ("two-point", "uniform", "Gaussian", "Laplace")
    }
    at = powers.index(1.2)
    figures = {f"{name} noise, p 1.2": values[at] for name, values in gains.items()} | {
        "two-point noise, p 2": gains["two-point"][-1],
        "weak noise, p 1.2": drift("two-point", 0.1, 1.2) / drift("two-point", 0.1, 1.0),
    }
    curves = [Curve(name, powers, values) for name, values in gains.items()]
    return Findings(figures, [Panel("Drift against power", "p", "R_p over R_1", curves)])


def drift(noise: str, ratio: float, power: float) -> float:
    """Return R_p for a gradient of mean 1 with noise of deviation ``ratio``.

    Args:
        noise: Kind of noise by name.
        ratio: Deviation of the noise over the mean.
        power: p.

    >>> round(drift("two-point", 10.0, 1.0), 4)
    0.0995
    """
    xi, weight = _law(noise)
    gradient = 1 + ratio * xi
    powered = np.sign(gradient) * np.abs(gradient) ** power
    return float((weight * powered).sum() / sqrt((weight * powered**2).sum()))


def _law(noise: str) -> tuple[Floats, Floats]:
    """Return points and weights of a law with mean 0 and variance 1."""
    if noise == "two-point":
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    reach = sqrt(3.0) if noise == "uniform" else _REACH
    edges = np.linspace(-reach, reach, _POINTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    density = {
        "uniform": lambda x: np.ones_like(x),
        "Gaussian": lambda x: np.exp(-(x**2) / 2),
        "Laplace": lambda x: np.exp(-sqrt(2.0) * np.abs(x)),
    }[noise](middle)
    return middle, density / density.sum()
