"""Powered gradients: what they do to a small language model, and to noise."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.claims.optimizers import (
    INSIDE,
    Tuned,
    around,
    end_loss,
    share_inside,
    train_gpt,
    tune,
)
from decentral.registry import Count, Positive, plugin

Floats = NDArray[np.float64]

#: Midpoints of the quadrature, and how far into the tails it reaches.
_POINTS, _REACH = 400_001, 40.0
#: The third of four peak rates, each twice the one before, of AdamW and Muon.
_RATES = {"AdamW": 4e-3, "Muon": 8e-3}


@plugin(
    "claim",
    tiny={"steps": 2},
    off={"power": 1.0},
    paper="Wang et al., GradPower: powering gradients for faster language model pre-training, "
    "ICML 2026",
    says="Raising gradients to a power p > 1 speeds up Adam and Muon where bounded noise "
    "dominates: the normalized drift R_p = E[phi_p(g)] / sqrt(E[phi_p(g)^2]) grows with p.",
    expect=(
        Expectation(
            "AdamW minus AdamPower", "AdamPower ends at a lower loss, each at the best of "
            "four rates", low=0.0, over="interval", effect=0.01,
        ),
        INSIDE,
        Expectation(
            "Muon minus MuonPower", "MuonPower does, too", low=0.0, over="interval",
            effect=0.01,
        ),
        Expectation(
            "AdamW minus AdamPower, WSD", "also under a rate that stays and then decays",
            low=0.0, over="interval", effect=0.01,
        ),
        Expectation(
            "two-point noise, p 1.2", "where noise dominates, R_p is proportional to p",
            low=1.18, high=1.22, role="by design",
        ),
        Expectation(
            "two-point noise, p 2", "also for large p", low=1.9, high=2.0, role="by design",
        ),
        Expectation(
            "uniform noise, p 1.2", "it holds for uniform noise", low=1.04, high=1.08,
            role="by design",
        ),
        Expectation(
            "weak noise, p 1.2", "without noise there is next to nothing to gain", low=0.99,
            high=1.0, role="by design",
        ),
        Expectation("Gaussian noise, p 1.2", "Gaussian noise gains, too", low=1.0),
        Expectation("Laplace noise, p 1.2", "heavy-tailed noise gains, too", low=1.0),
    ),
)  # fmt: skip
def gradpower(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 400,
    power: Positive = 1.2,
    ratio: Positive = 10.0,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Train a small GPT on the language reference of Python with AdamW and Muon, and with
    their gradients powered; compute the drift R_p / R_1 for four kinds of noise.

    Losses are those of the test text, in nats per character, under a cosine at the best
    of four rates a factor of 2 apart, and under WSD at the best of these.
    The drift is that of g = mu + sigma xi, sigma = ``ratio`` mu, exactly: it knows no
    seed. The gain needs noise with light tails: this is a limit of the theory at this
    level, and the last two expectations, which take the claim at its word, are there to
    show it. Mixtures of experts, for which the paper reports the largest gain, were not
    tried at this size.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        power: p; 1 changes nothing.
        ratio: Size of the noise over that of the gradient.
        arms: Whether ``all`` is measured, or the ``heart``: Adam under a cosine.
    """
    bases = {
        "Adam": {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]},
        "Muon": {"name": "muon", "newton_schulz": "polar", "steps": 6},
    }
    tuned: dict[str, Tuned] = {}
    for base, optimizer in list(bases.items())[: 1 if arms == "heart" else 2]:
        plain = "AdamW" if base == "Adam" else base
        for name, p in ((plain, 1.0), (f"{base}Power", power)):
            powered = {**optimizer, "grad_power": p}
            tuned[name] = tune(
                lab, name, seed, steps, powered, around(_RATES[plain], 4), floor=0.05
            )
    figures = {
        "AdamW minus AdamPower": tuned["AdamW"].loss - tuned["AdamPower"].loss,
        INSIDE.figure: share_inside(*tuned.values()),
    }
    drifts, panel = _drifts(ratio)
    if arms == "all":
        adamw_wsd, power_wsd = (
            end_loss(train_gpt(
                lab, f"{name}, WSD", seed, steps, {**bases["Adam"], "grad_power": p},
                tuned[name].rate, schedule="wsd",
            ))
            for name, p in (("AdamW", 1.0), ("AdamPower", power))
        )  # fmt: skip
        figures |= {
            "Muon minus MuonPower": tuned["Muon"].loss - tuned["MuonPower"].loss,
            "AdamW minus AdamPower, WSD": adamw_wsd - power_wsd,
        }
    curves = [one.curve(name) for name, one in tuned.items()]
    trained = Panel("Test loss", "step", "nats per character", curves)
    return Findings(figures | drifts, [trained, panel])


def _drifts(ratio: float) -> tuple[dict[str, float], Panel]:
    """Return the gains of drift of four kinds of noise, and how they depend on p."""
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
    return figures, Panel("Drift against power", "p", "R_p over R_1", curves)


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
