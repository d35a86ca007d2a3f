"""A claim about what disagreement between models is good for."""

from __future__ import annotations

from typing import Any

import numpy as np

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.claims.communication import PAPER
from decentral.registry import Count, plugin

_POWERS = (1.5, 2.0, 4.0)


@plugin(
    "claim",
    tiny={"steps": 40, "network_steps": 20},
    paper=PAPER,
    says="The average of models that communicate little can converge faster than centralized "
    "training on mini-batches of all their samples: what looks like disagreement is part of the "
    "progress.",
    expect=(
        Expectation(
            "merged over centralized, power 4",
            "faster where curvature grows away from the minimum", high=0.9,
        ),
        Expectation(
            "merged over centralized, power 2",
            "exactly as fast on quadratics", low=1 - 1e-6, high=1 + 1e-6,
        ),
        Expectation(
            "merged over centralized, power 1.5",
            "slower where curvature falls away from the minimum", low=1.1,
        ),
        Expectation(
            "gain over its formula, power 4",
            "its first step gains lr (p-1)(p-2)/2 x^(p-3) v, v the models' variance",
            low=0.9, high=1.1,
        ),
        Expectation(
            "merged over all-reduce, network, first quarter",
            "a network starts no faster", low=1.0, over="mean",
        ),
        Expectation(
            "merged over all-reduce, network, end", "and ends lower", high=1.0, over="mean"
        ),
    ),
)  # fmt: skip
def decentralized_can_be_faster(
    lab: Lab, seed: int, *, steps: Count = 400, network_steps: Count = 600
) -> Findings:
    """Minimise |x|^p / p by noisy SGD on 16 nodes, and train a network on digits
    that are alike.

    The average moves by the mean gradient at the models, which is that at the
    average plus half of the third derivative times their variance: none for p = 2,
    and towards the minimum for p > 2. Both sides see the same noise. On the
    network, all-reduce sees the same number of samples; nodes on a ring gossip at a
    fifth of every fifth step.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        network_steps: Steps of the runs on digits.
    """
    figures: dict[str, float] = {}
    curves: list[Curve] = []
    for power in _POWERS:
        merged, central = _descents(power, seed, steps)
        figures[f"merged over centralized, power {power:g}"] = merged[-1] / central[-1]
        at = [float(step) for step in range(1, steps + 1)]
        ratio = [one / other for one, other in zip(merged, central, strict=True)]
        curves.append(Curve(f"power {power:g}", at, ratio))
    figures["gain over its formula, power 4"] = _gain(4.0, seed)
    network, trained = _network(lab, seed, network_steps)
    panel = Panel("Merged over centralized", "step", "ratio of losses", curves, "y")
    return Findings(figures | network, [panel, trained])


def _gradient(x: np.ndarray, power: float) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** (power - 1)


def _descents(
    power: float,
    seed: int,
    steps: int,
    lr: float = 0.02,
    noise: float = 3.0,
    pull: float = 0.05,
) -> tuple[list[float], list[float]]:
    """Return the loss of the average of 16 nodes on a ring, and of centralized SGD,
    by step.
    """
    random = np.random.default_rng(seed)
    nodes = np.ones((16, 64))
    central = nodes[0].copy()
    losses: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        drawn = noise * random.standard_normal(nodes.shape)
        central = central - lr * (_gradient(central, power) + drawn.mean(0))
        nodes = nodes - lr * (_gradient(nodes, power) + drawn)
        # Gossip keeps the mean: what sets both sides apart is where gradients are
        # taken.
        nodes = nodes + pull * (np.roll(nodes, 1, 0) + np.roll(nodes, -1, 0) - 2 * nodes)
        for kept, x in zip(losses, (nodes.mean(0), central), strict=True):
            kept.append(float((np.abs(x) ** power / power).mean()))
    return losses


def _gain(power: float, seed: int, spread: float = 0.05) -> float:
    """Return how much further one step from x = 1 leads the average, over what
    theory says.
    """
    models = 1 + spread * np.random.default_rng(seed).standard_normal(100_000)
    # Centred exactly: a mean off 1 would add a term of first order to the gain.
    models += 1 - models.mean()
    further = float(_gradient(models, power).mean()) - 1.0
    return further / ((power - 1) * (power - 2) / 2 * models.var())


def _network(lab: Lab, seed: int, steps: int) -> tuple[dict[str, float], Panel]:
    ways: dict[str, dict[str, Any]] = {
        "all-reduce": {"algorithm": "allreduce"},
        "sparse gossip": {
            "topology": "ring", "communication": {"name": "constant", "intensity": 0.2},
            "local_steps": 5,
        },
    }  # fmt: skip
    loss = {
        name: series(_digits(lab, name, seed, steps, **way), name, "loss/merged")
        for name, way in ways.items()
    }
    ratio = [
        merged / central
        for merged, central in zip(
            loss["sparse gossip"].y, loss["all-reduce"].y, strict=True
        )
    ]
    figures = {
        "merged over all-reduce, network, first quarter": ratio[len(ratio) // 4],
        "merged over all-reduce, network, end": ratio[-1],
    }
    return figures, Panel("A network", "step", "test loss", list(loss.values()), "y")


def _digits(lab: Lab, name: str, seed: int, steps: int, **way: Any) -> Any:
    return lab.run(
        name, task="digits", model={"name": "mlp", "hidden": [64]}, nodes=16, split="iid",
        sampling="resample", batch=4, optimizer={"name": "sgd", "momentum": 0.0},
        learning_rate={"name": "constant", "lr": 0.1}, steps=steps, eval_every=max(1, steps // 24),
        metrics=("loss",), seed=seed, **way,
    )  # fmt: skip
