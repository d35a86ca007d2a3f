"""Expressive power of mixtures of experts."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

import numpy as np

from decentral import rng
from decentral.claims.base import Expectation, Findings, Lab, Panel
from decentral.claims.single_merge import series
from decentral.registry import Count, plugin
from decentral.tasks.synthetic import affine_slopes, one_layer_error, routed

#: Levels and experts per level of the counting test.
COUNTED = ((3, 2), (2, 3), (3, 3), (2, 4))


@plugin(
    "claim",
    tiny={"steps": 20, "circle_steps": 20, "dimension": 20},
    paper="Wang & E, On the expressive power of mixture-of-experts for structured complex tasks, "
    "NeurIPS 2025",
    says="L layers of E experts express E^L pieces; on a manifold the error of a mixture does not "
    "grow with the dimension of the space around it.",
    expect=(
        Expectation(
            "deep over shallow, known gate",
            "two layers of three experts learn nine pieces better than one layer of six",
            high=0.7,
        ),
        Expectation("error of L layers", "L x E affine experts give E^L pieces", high=1e-12),
        Expectation(
            "least error of one layer", "one layer of as many experts cannot", low=0.09
        ),
        Expectation(
            "deep over shallow, learned gate", "it also holds with gates that learn", high=0.9,
            over="median",
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
) -> Findings:
    """Count pieces, learn nine pieces with known and learned gates, and a circle in R^D.

    ``width`` is that of the deep model's experts; the shallow and the dense model have as many
    parameters. Compared with a dense model of equal *total* size a mixture has no advantage on the
    circle, here and in theory: that ratio is reported, and nothing is expected of it.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        width: Neurons of an expert of the deep model.
        circle_steps: Steps of the runs on the circle.
        dimension: Dimension D around the circle.
    """
    nine = _nine_pieces(lab, seed, steps, width)
    few, many = (_circle(lab, seed, circle_steps, d) for d in (16, dimension))
    figures = {
        "deep over shallow, known gate": nine["deep, known"] / nine["shallow, known"],
        "deep over shallow, learned gate": nine["deep, learned"] / nine["shallow, learned"],
        "deep, learned over dense": nine["deep, learned"] / nine["dense"],
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
    panel = Panel("Nine pieces from six functions", "step", "relative error", nine["curves"], "y")
    return Findings(figures, [panel])


def _trained(lab: Lab, label: str, **settings: Any) -> Any:
    return lab.run(label, nodes=1, algorithm="local", **settings)


def _nine_pieces(lab: Lab, seed: int, steps: int, width: int) -> dict[str, Any]:
    """Return the relative errors of deep, shallow and dense models of about equal size."""
    wide, dense = round(27 * width / 24), round((27 * width + 11) ** 0.5 - 2.5)
    models = {
        "deep, known": f"moe(layers=2, experts=3, width={width}, gate=intervals)",
        "shallow, known": f"moe(layers=1, experts=6, width={wide}, gate=intervals)",
        "deep, learned": f"moe(layers=2, experts=3, width={width})",
        "shallow, learned": f"moe(layers=1, experts=6, width={wide})",
        "dense": f"mlp(hidden=[{dense}, {dense}])",
    }
    rate = "cosine(lr=0.005)"
    runs = {
        name: _trained(
            lab, name, task="pieces", model=model, seed=seed, steps=steps, learning_rate=rate
        )
        for name, model in models.items()
    }
    errors = {name: error(run) for name, run in runs.items()}
    return {**errors, "curves": [series(run, name, "loss/merged") for name, run in runs.items()]}


def _circle(lab: Lab, seed: int, steps: int, dimension: int) -> dict[str, float]:
    """Return the relative errors of a mixture and of dense models of its active and total size."""
    total = round((4 * (10 * dimension + 21) + 4 * (dimension + 1)) / (dimension + 2))
    models = {"mixture": "moe", "active": "mlp(hidden=[10])", "total": f"mlp(hidden=[{total}])"}
    return {
        name: error(
            _trained(
                lab, f"{name} in R{dimension}", task=f"circle(dimension={dimension})",
                model=model, seed=seed, steps=steps,
            )
        )
        for name, model in models.items()
    }  # fmt: skip


def error(run: Any) -> float:
    """Return the relative mean squared error of a run's merged model on the test samples."""
    return float(run.summary["final"]["loss/merged"])


def _layers_error(levels: int, experts: int, seed: int) -> float:
    """Return the largest difference of L routed layers to the target of E^L affine pieces."""
    sample, axis = np.arange(1000)[:, None], np.arange(levels)
    x = rng.normal(seed, "counting/x", sample, axis)
    sizes = np.full((1000, levels), experts)
    which = rng.integers(sizes, seed, "counting/piece", sample, axis)
    slopes = affine_slopes(levels, experts)
    piece = (which * experts ** np.arange(levels)[::-1]).sum(1)
    return float(np.abs(routed(x, which, experts) - (slopes[piece] * x).sum(1)).max())
