"""Claims about architectures: what attention learns when, and what mixtures of
experts express.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, log
from statistics import geometric_mean
from typing import Any, Literal

import numpy as np

from decentral import rng
from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.registry import Count, Positive, plugin
from decentral.tasks.synthetic import affine_slopes, one_layer_error, route_experts
from decentral.theory import heads
from decentral.theory.reduced import Mixed, phases

# --- induction heads --------------------------------------------------------------


_THIN = 150


@plugin(
    "claim",
    tiny={"steps": 4, "every": 2},
    quick={"steps": 600, "every": 20, "length": 32, "lr": 0.003, "arms": "heart"},
    off={"layers": 1},
    paper="Wang, Yu, E & Wu, How transformers get rich: approximation and dynamics analysis, 2024",
    says="A transformer first learns a fixed shift, stays on a plateau, then an induction head "
    "emerges abruptly; the plateau grows like L (1 + alpha)^2 ln(1/sigma) / w*^2.",
    expect=(
        Expectation(
            "steps to induction over steps to shift",
            "attention learns the shift long before the induction (50 % against 90 % right)",
            low=3.0, over="interval",
        ),
        Expectation(
            "width of the rise over its start",
            "the rise from 20 % to 90 % is short compared with the wait for it",
            high=0.5,
        ),
        Expectation(
            "plateau, L times 4", "the plateau is proportional to L", low=3.9, high=4.1,
            role="by design",
        ),
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
        *(
            Expectation(
                f"fall of the error per unit of p, {heads}", f"{heads} that look at places and "
                f"one at content are {kind}, but for exp(-p)", low=0.9, high=1.1,
            )
            for heads, kind in (
                ("one head", "an induction head"), ("three heads", "one of 4-grams"),
            )
        ),
        Expectation(
            "power of the neurons in the error", "with M neurons a coordinate they are a "
            "generalised one, but for 1/M^2", low=1.8, high=2.2,
        ),
        *(
            Expectation(
                f"error of built heads without {part}", f"{part} cannot be left out", low=0.3
            )
            for part in ("places", "content", "one of three heads", "feed-forward")
        ),
    ),
)  # fmt: skip
def induction_heads(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 3000,
    every: Count = 100,
    length: Count = 48,
    lr: Positive = 0.001,
    layers: Count = 2,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Follow the reduced model's gradient flow, train two layers of attention on both
    answers, and build induction heads by hand.

    Heads that are built are `decentral.theory.heads`, on Gaussian symbols; errors are
    over the spread of the right answers. The reduced model knows no seed. Reviewers of
    the paper have argued that the separation of times comes from the offsets being
    linear in their parameter while w_K w_Q is quadratic.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        every: Steps between two measurements.
        length: Symbols of a sequence.
        lr: Learning rate.
        layers: Layers of attention; induction takes two.
        arms: Whether ``all`` is measured, or the ``heart``: attention.
    """
    task = {"name": "induction", "length": length, "layers": layers}
    run = lab.run(
        "attention", task=task, nodes=1, algorithm="local", steps=steps, seed=seed,
        eval_every=every, metrics=("loss", "accuracy", "scores"), learning_rate=lr,
    )  # fmt: skip
    shift, induction = (series(run, *pair) for pair in (
        ("shift", "score/gram_merged"), ("induction", "accuracy/merged"),
    ))  # fmt: skip
    begins, half, ends = (first(induction, level) for level in (0.2, 0.5, 0.9))
    figures = {
        # What is never learned is not learned late.
        "steps to induction over steps to shift": half / first(shift, 0.9)
        if half < inf
        else 0.0,
        "width of the rise over its start": (ends - begins) / begins
        if ends < inf
        else inf,
    }
    panels = [Panel("Layers of attention", "step", "accuracy", [shift, induction])]
    if arms == "all":
        theory, panel = _measure_reduced()
        built, errors = heads.measure(seed)
        curves = [
            Curve(name, [*heads.STRENGTHS], found) for name, found in errors.items()
        ]
        figures |= theory | built
        panels += [panel, Panel("Heads that are built", "p", "error", curves, "y")]
    return Findings(figures, panels)


def first(curve: Curve, level: float) -> float:
    """Return where a curve first reaches a level, infinity if it never does."""
    return next((x for x, y in zip(curve.x, curve.y, strict=True) if y >= level), inf)


def _measure_reduced() -> tuple[dict[str, float], Panel]:
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
    return figures, Panel(
        "The reduced model", "time", "loss over its start", curves, "xy"
    )


def _curve(label: str, points: Sequence[tuple[float, float]]) -> Curve:
    every = max(1, len(points) // _THIN)
    kept = [*points[1::every], points[-1]]
    return Curve(
        label, [time for time, _ in kept], [loss / points[0][1] for _, loss in kept]
    )


# --- mixtures of experts ----------------------------------------------------------


#: Levels and experts per level of the counting test.
COUNTED = ((3, 2), (2, 3), (3, 3), (2, 4))


@plugin(
    "claim",
    tiny={"steps": 20, "circle_steps": 20, "dimension": 20},
    quick={"steps": 600, "arms": "heart"},
    off={"levels": 1},
    paper="Wang & E, On the expressive power of mixture-of-experts for structured complex tasks, "
    "NeurIPS 2025",
    says="L layers of E experts express E^L pieces; on a manifold the error of a mixture does not "
    "grow with the dimension of the space around it.",
    expect=(
        Expectation(
            "deep over shallow, known gate",
            "two layers of three experts learn nine pieces better than one layer of six, for "
            "every seed", high=0.9,
        ),
        Expectation(
            "deep over shallow, learned gate", "it also holds with gates that learn, for every "
            "seed", high=0.9,
        ),
        Expectation(
            "deep over dense, learned gate", "and against a dense model of the same size",
            high=1.0, over="interval",
        ),
        Expectation(
            "error of L layers", "L x E affine experts give E^L pieces", high=1e-12,
            role="by design",
        ),
        Expectation(
            "least error of one layer", "one layer of as many experts cannot", low=0.09,
            role="by design",
        ),
        Expectation(
            "error in many dimensions over few", "the error does not grow with the dimension",
            high=3.0, over="median",
        ),
        Expectation(
            "mixture over dense, equal active size",
            "the mixture is better than a dense model of the size of one expert",
            high=0.3, over="median",
        ),
    ),
)  # fmt: skip
def moe_expressivity(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 2500,
    width: Count = 24,
    circle_steps: Count = 6000,
    dimension: Count = 128,
    levels: Count = 2,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Count pieces, learn nine pieces with known and learned gates, and a circle in
    R^D.

    ``width`` is that of the deep model's experts; the shallow and the dense model
    have as many parameters. Compared with a dense model of equal *total* size a
    mixture has no advantage on the circle, here and in theory: that ratio is
    reported, and nothing is expected of it.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        width: Neurons of an expert of the deep model.
        circle_steps: Steps of the runs on the circle.
        dimension: Dimension D around the circle.
        levels: Layers of the deep model, of six experts together.
        arms: Whether ``all`` is measured, or the ``heart``: the nine pieces.
    """
    nine = _nine_pieces(lab, seed, steps, width, levels, arms)
    panel = Panel(
        "Nine pieces from six functions", "step", "relative error", nine["curves"], "y"
    )
    known = {
        "deep over shallow, known gate": nine["deep, known"] / nine["shallow, known"]
    }
    if arms == "heart":
        return Findings(known, [panel])
    few, many = (_circle(lab, seed, circle_steps, d) for d in (16, dimension))
    figures = known | {
        "deep over shallow, learned gate": nine["deep, learned"]
        / nine["shallow, learned"],
        "deep over dense, learned gate": nine["deep, learned"] / nine["dense"],
        "error of L layers": max(_layers_error(*size, seed) for size in COUNTED),
        "least error of one layer": min(one_layer_error(*size) for size in COUNTED),
        "error in many dimensions over few": many["mixture"] / few["mixture"],
        **{
            f"mixture over dense, equal {size} size": geometric_mean(
                found["mixture"] / found[size] for found in (few, many)
            )
            for size in ("active", "total")
        },
    }
    return Findings(figures, [panel])


def _train(lab: Lab, label: str, **settings: Any) -> Any:
    return lab.run(label, nodes=1, algorithm="local", **settings)


def _nine_pieces(
    lab: Lab, seed: int, steps: int, width: int, levels: int, arms: str
) -> dict[str, Any]:
    """Return the relative errors of deep, shallow and dense models of about equal
    size.

    Args:
        lab: Where runs are made.
        seed: Seed of the runs.
        steps: Their steps.
        width: Neurons of an expert of a model of two layers.
        levels: Layers of the deep model.
        arms: Whether gates that learn and the dense model are tried, too.
    """
    wide, dense = round(27 * width / 24), round((27 * width + 11) ** 0.5 - 2.5)
    # One layer of six is the shallow model itself.
    neurons = width if levels == 2 else round(wide * 2 / (levels + 1))
    deep = f"layers={levels}, experts={max(1, 6 // levels)}, width={neurons}"
    models = {
        "deep, known": f"moe({deep}, gate=intervals)",
        "shallow, known": f"moe(layers=1, experts=6, width={wide}, gate=intervals)",
    }
    if arms == "all":
        models |= {
            "deep, learned": f"moe({deep})",
            "shallow, learned": f"moe(layers=1, experts=6, width={wide})",
            "dense": f"mlp(hidden=[{dense}, {dense}])",
        }
    rate = "cosine(lr=0.005)"
    runs = {
        name: _train(
            lab,
            name,
            task="pieces",
            model=model,
            seed=seed,
            steps=steps,
            learning_rate=rate,
        )
        for name, model in models.items()
    }
    errors = {name: relative_error(run) for name, run in runs.items()}
    return {
        **errors,
        "curves": [series(run, name, "loss/merged") for name, run in runs.items()],
    }


def _circle(lab: Lab, seed: int, steps: int, dimension: int) -> dict[str, float]:
    """Return the relative errors of a mixture and of dense models of its active and
    total size.
    """
    total = round((4 * (10 * dimension + 21) + 4 * (dimension + 1)) / (dimension + 2))
    models = {
        "mixture": "moe",
        "active": "mlp(hidden=[10])",
        "total": f"mlp(hidden=[{total}])",
    }
    return {
        name: relative_error(
            _train(
                lab, f"{name} in R{dimension}", task=f"circle(dimension={dimension})",
                model=model, seed=seed, steps=steps,
            )
        )
        for name, model in models.items()
    }  # fmt: skip


def relative_error(run: Any) -> float:
    """Return the relative mean squared error of a run's merged model on the test
    samples.
    """
    return float(run.summary["final"]["loss/merged"])


def _layers_error(levels: int, experts: int, seed: int) -> float:
    """Return the largest difference of L routed layers to the target of E^L affine
    pieces.
    """
    sample, axis = np.arange(1000)[:, None], np.arange(levels)
    x = rng.normal(seed, "counting/x", sample, axis)
    sizes = np.full((1000, levels), experts)
    which = rng.integers(sizes, seed, "counting/piece", sample, axis)
    slopes = affine_slopes(levels, experts)
    piece = (which * experts ** np.arange(levels)[::-1]).sum(1)
    return float(
        np.abs(route_experts(x, which, experts) - (slopes[piece] * x).sum(1)).max()
    )
