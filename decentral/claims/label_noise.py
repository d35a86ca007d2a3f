"""Label noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from decentral.claims import Expectation, Findings, Panel
from decentral.claims._lab import Lab
from decentral.claims.single_merge import series
from decentral.registry import Count, plugin

_LEVELS = (0, 1, 2, 4)


@plugin(
    "claim",
    tiny={"steps": 80},
    paper="Zhang et al., On the learning dynamics of two-layer linear networks with label noise "
    "SGD, AAAI 2026",
    says="Label noise drives a two-layer network from the lazy to the rich regime: the neurons "
    "first shrink, then align with the truth; without noise nothing moves.",
    expect=(
        Expectation(
            "norm at the end over start, noise 4", "the neurons shrink with noise", high=0.5
        ),
        Expectation(
            "norm at the end over start, noise 0", "and stay without", low=0.99, high=1.01
        ),
        Expectation("alignment, noise 4", "they align with the truth", low=0.5),
        Expectation("share of the first direction, noise 4", "and with each other", low=0.4),
        Expectation(
            "least fall per level of noise", "more noise shrinks them more", low=0.0
        ),
        Expectation(
            "fall while on over fall while off",
            "they shrink only while the noise is on (least of all windows)", low=20.0,
        ),
    ),
)  # fmt: skip
def label_noise(lab: Lab, seed: int, *, steps: Count = 40_000) -> Findings:
    """Fit y = t^T x with f(x) = a^T W x under label noise of four levels, and switched on and off.

    Batches of one sample and a rate at the edge of stability, as in the paper, on a network a fifth
    as wide. The truth is linear and the samples outnumber the inputs, so that noise-free training
    finds it, too: noise changes the regime, not the test loss.
    """
    window = max(1, steps // 10)
    runs = {
        f"noise {level}": _trained(lab, f"noise {level}", seed, steps, window, label_noise=level)
        for level in _LEVELS
    }
    toggled = _trained(
        lab, "noise on and off", seed, steps, window,
        label_noise={"level": 4, "every": window},
    )  # fmt: skip
    norm = {name: series(run, name, "neurons/norm") for name, run in runs.items()}
    norm["noise on and off"] = series(toggled, "noise on and off", "neurons/norm")
    ends = {name: curve.y[-1] / curve.y[0] for name, curve in norm.items()}
    final = runs["noise 4"].rows[-1]
    figures = {
        "norm at the end over start, noise 4": ends["noise 4"],
        "norm at the end over start, noise 0": ends["noise 0"],
        "alignment, noise 4": final["neurons/alignment"],
        "share of the first direction, noise 4": final["neurons/top_share"],
        "least fall per level of noise": min(
            ends[f"noise {a}"] - ends[f"noise {b}"] for a, b in pairwise(_LEVELS)
        ),
        "fall while on over fall while off": _switched(norm["noise on and off"].y),
    }
    aligned = [series(run, name, "neurons/alignment") for name, run in runs.items()]
    return Findings(
        figures,
        [
            Panel("Norm of the neurons", "step", "mean norm", list(norm.values()), "y"),
            Panel("Alignment with the truth", "step", "mean |cos|", aligned),
        ],
    )


def _trained(lab: Lab, label: str, seed: int, steps: int, every: int, **method: Any) -> Any:
    return lab.run(
        label, task="two_layer_linear", nodes=1, algorithm="local", seed=seed, steps=steps,
        eval_every=every, metrics=("loss", "neurons"), **method,
    )  # fmt: skip


def _switched(norm: list[float]) -> float:
    """Return the fall in a window with noise over the change in the next without, the least."""
    falls = [before - after for before, after in pairwise(norm)]
    return min(on / max(1e-12, abs(off)) for on, off in zip(falls[::2], falls[1::2], strict=False))
