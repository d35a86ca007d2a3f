"""Induction heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, log

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.claims.single_merge import series
from decentral.registry import Count, plugin
from decentral.theory.induction import Mixed, phases

_THIN = 150


@plugin(
    "claim",
    tiny={"steps": 4, "every": 2},
    paper="Wang, Yu, E & Wu, How transformers get rich: approximation and dynamics analysis, 2024",
    says="A transformer first learns a fixed shift, stays on a plateau, then an induction head "
    "emerges abruptly; the plateau grows like L (1 + alpha)^2 ln(1/sigma) / w*^2.",
    expect=(
        Expectation(
            "steps to induction over steps to shift",
            "attention learns the shift long before the induction (50 % against 90 % right)",
            low=3.0,
        ),
        Expectation(
            "width of the rise over its start",
            "the rise from 20 % to 90 % is short compared with the wait for it",
            high=0.5,
        ),
        Expectation("plateau, L times 4", "the plateau is proportional to L", low=3.9, high=4.1),
        Expectation(
            "plateau, alpha 1 to 3", "and grows about like (1 + alpha)^2 = 4", low=3.4, high=4.2
        ),
        Expectation(
            "growth with ln(1/sigma)", "and by L (1 + alpha)^2 / w*^2 per unit of ln(1/sigma)",
            low=0.98, high=1.02,
        ),
        Expectation(
            "time to shift, L times 4", "the shift takes the same time at every L",
            low=0.98, high=1.02,
        ),
        Expectation(
            "abruptness, sigma 1e-8", "the emergence takes a vanishing share of the time", high=0.15
        ),
        Expectation(
            "fall of abruptness", "which falls with every smaller sigma (least step)", low=0.0
        ),
        Expectation("4 t L_gram", "the shift converges as 1/(4t)", low=0.97, high=1.03),
    ),
)  # fmt: skip
def induction_heads(lab: Lab, seed: int, *, steps: Count = 3000, every: Count = 100) -> Findings:
    """Follow the reduced model's gradient flow, and train two layers of attention on both answers.

    The reduced model knows no seed. Reviewers of the paper have argued that the separation of times
    comes from the offsets being linear in their parameter while w_K w_Q is quadratic.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        every: Steps between two measurements.
    """
    run = lab.run(
        "attention", task="induction", nodes=1, algorithm="local", steps=steps, seed=seed,
        eval_every=every, metrics=("loss", "accuracy", "scores"),
    )  # fmt: skip
    shift, induction = (series(run, *pair) for pair in (
        ("shift", "score/gram_merged"), ("induction", "accuracy/merged"),
    ))  # fmt: skip
    begins, half, ends = (first(induction, level) for level in (0.2, 0.5, 0.9))
    theory, panel = _reduced()
    figures = {
        "steps to induction over steps to shift": half / first(shift, 0.9),
        "width of the rise over its start": (ends - begins) / begins,
        **theory,
    }
    return Findings(
        figures, [Panel("Two layers of attention", "step", "accuracy", [shift, induction]), panel]
    )


def first(curve: Curve, level: float) -> float:
    """Return where a curve first reaches a level, infinity if it never does."""
    return next((x for x, y in zip(curve.x, curve.y, strict=True) if y >= level), inf)


def _reduced() -> tuple[dict[str, float], Panel]:
    """Return the figures of the reduced model, and its losses over time."""
    plain, long, heavy = Mixed(), Mixed(length=4000.0), Mixed(alpha=3.0)
    base, longer, heavier = (phases(model) for model in (plain, long, heavy))
    starts = (1e-1, 1e-2, 1e-4, 1e-8)
    found = [phases(Mixed(start=sigma)) for sigma in starts]
    falls = [a.abruptness - b.abruptness for a, b in pairwise(found)]
    predicted = plain.length * 4 / plain.match * log(1e4)
    figures = {
        "plateau, L times 4": longer.leaves / base.leaves,
        "plateau, alpha 1 to 3": heavier.leaves / base.leaves,
        "growth with ln(1/sigma)": (found[3].leaves - found[2].leaves) / predicted,
        "time to shift, L times 4": longer.learned / base.learned,
        "abruptness, sigma 1e-8": found[3].abruptness,
        "fall of abruptness": min(falls),
        "4 t L_gram": base.tail,
    }
    curves = [
        _curve(f"induction, sigma {sigma:g}", one.induction)
        for sigma, one in zip(starts, found, strict=True)
    ]
    curves.append(_curve("shift, sigma 0.01", base.gram))
    return figures, Panel("The reduced model", "time", "loss over its start", curves, "xy")


def _curve(label: str, points: Sequence[tuple[float, float]]) -> Curve:
    every = max(1, len(points) // _THIN)
    kept = [*points[1::every], points[-1]]
    return Curve(label, [time for time, _ in kept], [loss / points[0][1] for _, loss in kept])
