"""A claim about what disagreement between models is good for."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal

import numpy as np

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.claims.communication import PAPER
from decentral.registry import Count, Share, plugin

_POWERS = (4.0, 2.0, 1.5)


@plugin(
    "claim",
    tiny={"steps": 20, "network_steps": 20},
    quick={"steps": 200, "arms": "heart"},
    off={"topology": "complete", "intensity": 1.0},
    paper=PAPER,
    says="The average of models that communicate little can converge faster than centralized "
    "training on mini-batches of all their samples: what looks like disagreement is part of the "
    "progress.",
    expect=(
        Expectation(
            "merged over all-reduce, power 4",
            "faster where curvature grows away from the minimum, for unlike data", high=0.9,
            over="interval",
        ),
        Expectation(
            "merged over all-reduce, power 2",
            "the null: exactly as fast on quadratics", low=0.999, high=1.001,
            role="by design",
        ),
        Expectation(
            "merged over all-reduce, power 1.5",
            "slower where curvature falls away from the minimum", low=1.1, over="interval",
        ),
        Expectation(
            "gain over its formula, power 4",
            "its first step gains lr (p-1)(p-2)/2 x^(p-3) v, v the models' variance",
            low=0.9, high=1.1, role="by design",
        ),
        Expectation(
            "merged over all-reduce, network, first quarter",
            "a network starts no faster", low=1.0, over="interval",
        ),
        Expectation(
            "merged over all-reduce, network, end", "and ends lower", high=1.0,
            over="interval",
        ),
    ),
)  # fmt: skip
def decentralized_can_be_faster(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 400,
    network_steps: Count = 600,
    topology: str = "ring",
    intensity: Share = 0.1,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Minimise |x|^p / p by noisy SGD on 16 nodes with data of their own, and train a
    network on digits that are alike.

    The average moves by the mean gradient at the models, which is that at the
    average plus half of the third derivative times their variance: none for p = 2,
    and towards the minimum for p > 2. Both sides see the same samples; nodes on a ring
    gossip over a tenth of the links at every step. On the network, all-reduce sees the
    same number of samples; nodes on a ring gossip at a fifth of every fifth step.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        network_steps: Steps of the runs on digits.
        topology: Who gossips with whom.
        intensity: Share of the links in a step.
        arms: Whether ``all`` is measured, or the ``heart``: p = 4.
    """
    figures: dict[str, float] = {}
    curves: list[Curve] = []
    gossip = {
        "topology": topology, "communication": {"name": "constant", "intensity": intensity}
    }  # fmt: skip
    for power in _POWERS if arms == "all" else _POWERS[:1]:
        central, merged = (
            series(_descend(lab, name, power, seed, steps, way), name, "loss/merged")
            for name, way in (
                ("all-reduce", {"algorithm": "allreduce"}), ("gossip", gossip)
            )
        )  # fmt: skip
        ratio = [one / other for one, other in zip(merged.y, central.y, strict=True)]
        # Over the last tenth: the loss goes up and down with the noise.
        tail = max(1, len(ratio) // 10)
        figures[f"merged over all-reduce, power {power:g}"] = fmean(
            merged.y[-tail:]
        ) / fmean(central.y[-tail:])
        curves.append(Curve(f"power {power:g}", merged.x, ratio))
    panels = [Panel("Merged over all-reduce", "step", "ratio of losses", curves, "y")]
    if arms == "all":
        figures["gain over its formula, power 4"] = _gain(4.0, seed)
        network, trained = _network(lab, seed, network_steps)
        figures |= network
        panels.append(trained)
    return Findings(figures, panels)


def _descend(
    lab: Lab, name: str, power: float, seed: int, steps: int, way: dict[str, Any]
) -> Any:
    return lab.run(
        f"{name}, power {power:g}", task={"name": "powers", "power": power}, nodes=16,
        steps=steps, eval_every=max(1, steps // 40), metrics=("loss",), seed=seed, **way,
    )  # fmt: skip


def _gain(power: float, seed: int, spread: float = 0.05) -> float:
    """Return how much further one step from x = 1 leads the average, over what
    theory says.
    """
    models = 1 + spread * np.random.default_rng(seed).standard_normal(100_000)
    # Centred exactly: a mean off 1 would add a term of first order to the gain.
    models += 1 - models.mean()
    further = float((np.sign(models) * np.abs(models) ** (power - 1)).mean()) - 1.0
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
