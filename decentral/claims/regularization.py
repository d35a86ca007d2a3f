"""A claim about implicit regularization: where label noise leads a model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import Any, Literal

import torch

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.loop.preparing import prepare
from decentral.registry import Count, NonNegative, plugin
from decentral.theory.reduced import decay_rate, shaken_norm

# --- label noise ------------------------------------------------------------------


#: Levels of noise, by their share of the highest.
_LEVELS = {"noise 0": 0.0, "noise 1": 0.25, "noise 2": 0.5, "noise 4": 1.0}
_AMPLITUDES = (0.0, 0.1, 0.3, 1.0)


@plugin(
    "claim",
    tiny={"steps": 80},
    quick={"steps": 5000, "arms": "heart"},
    off={"level": 0.0},
    paper="Zhang et al., On the learning dynamics of two-layer linear networks with label noise "
    "SGD, AAAI 2026",
    says="Label noise drives a two-layer network from the lazy to the rich regime: the neurons "
    "first shrink, then align with the truth; without noise nothing moves.",
    expect=(
        Expectation(
            "norm at the end over start, noise 4", "the neurons shrink with noise", high=0.5,
            over="interval",
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
        Expectation(
            "decay rate over its formula, width 1,000", "as fast as the formula says",
            low=0.8, high=1.2,
        ),
        Expectation(
            "norm at the end over start, second layer not shaken",
            "without noise in the labels, gradient descent leaves them", low=0.99, high=1.01,
        ),
        Expectation(
            "least fall per amplitude of shaking",
            "a second layer shaken by hand shrinks them, the more the harder", low=0.0,
        ),
        Expectation("norm at the end over start, SAM", "SAM shrinks them, too", high=0.9),
        Expectation(
            "norm at the end over start, SAM and noise over noise", "and more so with noise",
            high=1.0,
        ),
        Expectation(
            "cosine of the kernel with its start, noise 4", "the tangent kernel turns: the "
            "regime is no longer lazy", high=0.8,
        ),
        Expectation(
            "cosine of the kernel with its start, noise 0", "without noise it stays",
            low=0.99,
        ),
    ),
)  # fmt: skip
def label_noise(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 24_000,
    level: NonNegative = 4.0,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Fit y = t^T x with f(x) = a^T W x under label noise of four levels, and
    switched on and off.

    Batches of one sample and a rate at the edge of stability, as in the paper, on a
    network a fifth as wide. The truth is linear and the samples outnumber the
    inputs, so that noise-free training finds it, too: noise changes the regime, not
    the test loss. The formula for the rate of decay holds for wide networks: it is
    compared at the paper's width and rate, over the first half of as many steps,
    from where each of four windows starts.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        level: The highest level of noise, 4 in the names of figures.
        arms: Whether ``all`` is measured, or the ``heart``: the norm at that level.
    """
    window = max(1, steps // 10)
    levels = _LEVELS if arms == "all" else {"noise 4": 1.0}
    runs = {
        name: _train(lab, name, seed, steps, window, label_noise=share * level)
        for name, share in levels.items()
    }
    norm = {name: series(run, name, "neurons/norm") for name, run in runs.items()}
    shrunk = {"norm at the end over start, noise 4": _shrinking(norm["noise 4"])}
    if arms == "heart":
        return Findings(shrunk, [_norms(norm)])
    toggled = _train(
        lab, "noise on and off", seed, steps, steps // 6,
        label_noise={"level": level, "every": steps // 6},
    )  # fmt: skip
    norm["noise on and off"] = series(toggled, "noise on and off", "neurons/norm")
    ends = {name: _shrinking(curve) for name, curve in norm.items()}
    sam = _train(lab, "SAM", seed, steps, window, sam=0.25)
    both = _train(lab, "SAM and noise", seed, steps, window, sam=0.25, label_noise=level)
    ends |= {
        name: _shrinking(series(run, name, "neurons/norm"))
        for name, run in (("SAM", sam), ("SAM and noise", both))
    }
    falls = [ends[a] - ends[b] for a, b in pairwise(_LEVELS)]
    figures = shrunk | _at_the_end(runs) | {
        "norm at the end over start, noise 0": ends["noise 0"],
        "least fall per level of noise": min(falls),
        "fall while on over fall while off": _noise_effect(norm["noise on and off"].y),
        "decay rate over its formula, width 1,000": _against_formula(lab, seed, steps // 2),
        "norm at the end over start, SAM": ends["SAM"],
        "norm at the end over start, SAM and noise over noise":
            ends["SAM and noise"] / ends["noise 4"],
    }  # fmt: skip
    aligned = [series(run, name, "neurons/alignment") for name, run in runs.items()]
    panel = Panel("Alignment with the truth", "step", "mean |cos|", aligned)
    return Findings(figures | _shake_by_hand(seed, window), [_norms(norm), panel])


def _at_the_end(runs: Mapping[str, Any]) -> dict[str, float]:
    """Return what has become of the neurons, and of the tangent kernel."""
    last = runs["noise 4"].rows[-1]
    return {
        "alignment, noise 4": last["neurons/alignment"],
        "share of the first direction, noise 4": last["neurons/top_share"],
    } | {
        f"cosine of the kernel with its start, {name}": kernel_cosine(runs[name])
        for name in ("noise 0", "noise 4")
    }


def _norms(norm: Mapping[str, Curve]) -> Panel:
    return Panel("Norm of the neurons", "step", "mean norm", list(norm.values()), "y")


def _shrinking(norm: Curve) -> float:
    """Return the norm at the end over that at the start."""
    return norm.y[-1] / norm.y[0]


def _train(lab: Lab, label: str, seed: int, steps: int, every: int, **method: Any) -> Any:
    return lab.run(
        label, task="two_layer_linear", nodes=1, algorithm="local", seed=seed, steps=steps,
        eval_every=every, metrics=("loss", "neurons"), **method,
    )  # fmt: skip


def _against_formula(lab: Lab, seed: int, steps: int) -> float:
    """Return by how much ln |W| fell over what the formula says, at the paper's
    size.
    """
    lr, noise = 0.001, 4.0
    run = _train(
        lab, "paper size", seed, steps, max(1, steps // 4), label_noise=noise,
        **{"task.width": 1000, "learning_rate.lr": lr},
    )  # fmt: skip
    first, second = (series(run, "", f"neurons/{layer}") for layer in ("first", "second"))
    points = list(zip(first.x, first.y, second.y, strict=True))
    predicted = sum(
        (later - step) * decay_rate(lr, noise, inner, outer, dimension=20)
        for (step, inner, outer), (later, _, _) in pairwise(points)
    )
    return 0.5 * log(first.y[0] / first.y[-1]) / predicted


def kernel_cosine(run: Any) -> float:
    """Return the cosine between the tangent kernels of a two-layer linear network before
    and after a run, |a|^2 X X^T + X W^T W X^T on the training inputs X.
    """
    setup = prepare(run.models_config())
    inputs = setup.task.splits[0].inputs.double()
    kernels: list[torch.Tensor] = []
    for model in (setup.module({}), run.merged_model()):
        first, second = (p.detach().double() for p in model.parameters() if p.ndim == 2)
        hidden = inputs @ first.T
        kernel = second.square().sum() * inputs @ inputs.T + hidden @ hidden.T
        kernels.append(kernel.flatten() / kernel.norm())
    return float(kernels[0] @ kernels[1])


def _shake_by_hand(seed: int, steps: int) -> dict[str, float]:
    """Return what is left of the norms when the second layer is shaken by hand,
    without noise.
    """
    norms = [shaken_norm(amplitude, seed, steps=steps) for amplitude in _AMPLITUDES]
    left = [after / before for before, after in norms]
    return {
        "norm at the end over start, second layer not shaken": left[0],
        "least fall per amplitude of shaking": min(a - b for a, b in pairwise(left)),
    }


def _noise_effect(norm: list[float]) -> float:
    """Return the fall in a window with noise over the change in the next without,
    the least.
    """
    falls = [before - after for before, after in pairwise(norm)]
    return min(
        on / max(1e-12, abs(off))
        for on, off in zip(falls[::2], falls[1::2], strict=False)
    )
