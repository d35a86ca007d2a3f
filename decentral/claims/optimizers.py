"""Claims about optimizers, tried on a small language model, or by what they do to
noise.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.registry import Count, Positive, plugin

# --- LITE -------------------------------------------------------------------------


#: The setting of a small language model in which optimizers are compared.
SMALL_GPT: dict[str, Any] = {
    "task": {"name": "text", "context": 32},
    "model": {"name": "gpt", "layers": 2, "width": 64, "heads": 4},
    "nodes": 1,
    "algorithm": "local",
    "batch": 16,
    "clip": 1.0,
}


@plugin(
    "claim",
    tiny={"steps": 2},
    paper="Zhu et al., LITE, arXiv 2602.22681, 2026",
    says="Bolder and less damped steps along flat directions speed up Muon.",
    expect=(
        Expectation("Muon minus LITE", "LITE reaches a lower loss at Muon's best rate", low=0.0),
        Expectation(
            "Muon minus LITE", "by about 0.02 to 0.03 nats", low=0.01, high=0.05,
            over="mean",
        ),
        Expectation(
            "best other rate minus Muon", "the rate is Muon's best (of half, once, twice)",
            low=-0.005, over="mean",
        ),
    ),
)  # fmt: skip
def lite(lab: Lab, seed: int, *, steps: Count = 800, lr: Positive = 0.008) -> Findings:
    """Train a small GPT on the language reference of Python with Muon and with
    Muon-LITE.

    LITE acts on hidden matrices only, with the authors' damping (-1/4, 1) and chi
    2. Losses are those of the test text, in nats per character.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        lr: Learning rate.
    """
    muon = {"name": "muon", "newton_schulz": "polar", "steps": 6}
    on_matrices = {"embedding": 1, "norm": 1, "head": 1}
    bold = {"name": "muon_lite", "betas": [0.9, 0.95], "chi": on_matrices}
    tried = {
        "Muon": (muon, lr), "LITE": (bold, lr),
        "Muon, half the rate": (muon, lr / 2), "Muon, twice the rate": (muon, 2 * lr),
    }  # fmt: skip
    runs = {
        name: train_gpt(lab, name, seed, steps, optimizer, rate, floor=0.1)
        for name, (optimizer, rate) in tried.items()
    }
    loss = {
        name: float(run.summary["final"]["loss/merged"]) for name, run in runs.items()
    }
    figures = {
        "Muon minus LITE": loss["Muon"] - loss["LITE"],
        "best other rate minus Muon": min(
            loss[name] for name in loss if name.startswith("Muon,")
        ) - loss["Muon"],
    }  # fmt: skip
    curves = [series(run, name, "loss/merged") for name, run in runs.items()]
    return Findings(figures, [Panel("Test loss", "step", "nats per character", curves)])


def train_gpt(
    lab: Lab, label: str, seed: int, steps: int, optimizer: Any, lr: float, floor: float,
    **settings: Any,
) -> Any:  # fmt: skip
    """Return a run of the small GPT with an optimizer at a peak rate."""
    rate = {"name": "cosine", "lr": lr, "warmup": "10%", "floor": floor}
    return lab.run(
        label, **{**SMALL_GPT, "metrics": ("loss",), **settings}, seed=seed, steps=steps,
        optimizer=optimizer, learning_rate=rate, eval_every=max(1, steps // 8),
    )  # fmt: skip


# --- rates by block ---------------------------------------------------------------


#: The rate of the run in which sharpness is measured; it is one of AdamW's alone.
_MEASURED = 4e-3
_BLOCKS = ("qk", "ffn", "vo", "norm", "embedding", "head")


@plugin(
    "claim",
    tiny={"steps": 2},
    paper="Wang et al., The sharpness disparity principle in transformers, ICML 2025",
    says="The blocks of a transformer differ in sharpness in a fixed order, and larger rates for "
    "the flatter blocks speed up pre-training.",
    expect=(
        Expectation(
            "snapshots in order", "query and key are flatter than feed-forward, that than value and"
            " output, in most snapshots", low=0.6, over="mean",
        ),
        Expectation(
            "AdamW minus blockwise", "rates by block reach a lower loss at the best of three rates",
            low=0.0, over="mean",
        ),
    ),
)  # fmt: skip
def blockwise(lab: Lab, seed: int, *, steps: Count = 800) -> Findings:
    """Train a small GPT with AdamW and with rates by block, each at the best of
    three rates.

    Sharpness is the mean diagonal Fisher information with drawn labels, measured
    nine times in the run with AdamW. Blockwise rates are 10, 8, 6, 4, 1 and 1 for
    embeddings, query and key, feed-forward, value and output, norms and the head.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
    """
    adamw = {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}
    plain = {lr: _run(lab, seed, steps, adamw, lr) for lr in (2e-3, _MEASURED, 8e-3)}
    blocks = {"blockwise": True}
    by_block = {
        lr: _run(lab, seed, steps, {**adamw, **blocks}, lr) for lr in (5e-4, 1e-3, 2e-3)
    }
    best = [min(map(_loss, runs.values())) for runs in (plain, by_block)]
    measured = [record for record in plain[_MEASURED].rows if "sharpness/qk" in record]
    ordered = [
        record["sharpness/qk"] < record["sharpness/ffn"] < record["sharpness/vo"]
        for record in measured
    ]
    figures = {
        "snapshots in order": sum(ordered) / len(ordered),
        "AdamW minus blockwise": best[0] - best[1],
        "AdamW minus blockwise, equal rate 0.002": _loss(plain[2e-3])
        - _loss(by_block[2e-3]),
    }
    steps_at = [float(record["step"]) for record in measured]
    sharp = [
        Curve(block, steps_at, [record[f"sharpness/{block}"] for record in measured])
        for block in _BLOCKS
    ]
    losses = [
        series(runs[lr], f"{name}, {lr:g}", "loss/merged")
        for name, runs in (("AdamW", plain), ("by block", by_block))
        for lr in runs
    ]
    return Findings(
        figures,
        [
            Panel(
                "Sharpness of the blocks", "step", "mean Fisher information", sharp, "y"
            ),
            Panel("Test loss", "step", "nats per character", losses),
        ],
    )


def _run(lab: Lab, seed: int, steps: int, optimizer: dict[str, Any], lr: float) -> Any:
    label = f"{'by block' if 'blockwise' in optimizer else 'AdamW'}, {lr:g}"
    metrics = ("loss", "sharpness") if lr == _MEASURED else ("loss",)
    return train_gpt(lab, label, seed, steps, optimizer, lr, floor=0.05, metrics=metrics)


def _loss(run: Any) -> float:
    return float(run.summary["final"]["loss/merged"])


# --- GradPower --------------------------------------------------------------------


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
    """Compute R_p / R_1 for g = mu + sigma xi exactly, sigma = ``ratio`` mu, for
    four kinds of xi.

    The gain needs noise with light tails: this is a limit of the theory at this
    level, and the last two expectations, which take the claim at its word, are
    there to show it. What GradPower does to a small language model stands in the
    documentation of the optimizers.

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
