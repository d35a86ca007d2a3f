"""A claim about sharpness-aware minimisation: a few epochs of it are enough."""

from __future__ import annotations

from math import inf
from typing import Any, Literal

import torch

from decentral.claims.base import Expectation, Findings, Lab, Panel, series
from decentral.loop.preparing import prepare
from decentral.registry import Count, NonNegative, plugin

#: When SAM begins, as a share of the run; None is never.
_STARTS = {"never": None, "last 12.5 %": 0.875, "last 25 %": 0.75, "always": 0.0}


@plugin(
    "claim",
    tiny={"epochs": 2},
    quick={"epochs": 24, "arms": "heart"},
    off={"rho": 0.0},
    paper="Zhou et al., Sharpness-aware minimization efficiently selects flatter minima late in "
    "training, ICLR 2025",
    says="A few epochs of SAM at the end of training find nearly as flat a minimum as SAM "
    "throughout.",
    expect=(
        Expectation(
            "recovered by the last 25 %",
            "the last quarter recovers most of what SAM throughout gains in sharpness",
            low=0.5, over="interval", effect=0.9,
        ),
        Expectation(
            "sharpness, never over always", "there is something to recover", low=1.2,
            role="condition",
        ),
        Expectation(
            "recovered by the last 12.5 %", "the last eighth recovers half of it",
            low=0.5, over="mean",
        ),
        Expectation(
            "test loss, last 25 % minus always", "the test loss is that of SAM throughout",
            low=-0.02, high=0.02, over="interval",
        ),
        Expectation(
            "barrier, never to last 25 %", "both ends lie in one valley", high=0.01
        ),
        Expectation(
            "barrier, never to another seed", "in which other runs do not end", low=0.3
        ),
        Expectation(
            "test loss, last 25 % minus never", "the test loss is no worse for it", high=0.02
        ),
    ),
)  # fmt: skip
def late_sam(
    lab: Lab,
    seed: int,
    *,
    epochs: Count = 64,
    batch: Count = 16,
    rho: NonNegative = 0.2,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Switch SAM on in the last quarter, the last eighth, from the start, and
    never.

    600 digits, one node, a constant rate and label smoothing: without smoothing the
    loss and with it every curvature goes to 0, and with a vanishing rate nothing
    moves at the end. The sharpness is the top eigenvalue of the Hessian of the
    training loss; a barrier is the most by which the training loss on the straight line
    between two models rises above the line between its ends. Accuracies differ within
    noise, so nothing is claimed of them.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        epochs: Passes over the data.
        batch: Batch size.
        rho: Radius of SAM's ascent; 0 is without.
        arms: Whether ``all`` is measured, or the ``heart``: the last quarter.
    """
    steps = max(8, 600 * epochs // batch)
    # The curvature is most of the cost; the heart needs that of the end only.
    every = max(1, steps // 8) if arms == "all" else steps

    def train(name: str, seed: int) -> Any:
        start = _STARTS[name]
        sam = {"sam": {"rho": rho, "start": f"{100 * (start or 0):g}%"}}
        return lab.run(
            f"SAM {name}", task="digits(val=0.55457)", nodes=1, algorithm="local", seed=seed,
            steps=steps, batch=batch, eval_every=every, label_smoothing=0.1,
            learning_rate=0.02, optimizer="sgd(momentum=0.9, weight_decay=1e-4)",
            metrics=("loss", "accuracy", "curvature"),
            **({} if start is None or not rho else sam),
        )  # fmt: skip

    heart = ("never", "last 25 %", "always")
    runs = {name: train(name, seed) for name in (_STARTS if arms == "all" else heart)}
    curves = {
        name: series(run, name, "curvature/top_merged") for name, run in runs.items()
    }
    top = {name: curve.y[-1] for name, curve in curves.items()}
    # Where SAM gains nothing, nothing is recovered.
    gained = top["never"] - top["always"] or inf
    loss = {name: run.summary["final"]["loss/merged"] for name, run in runs.items()}
    figures = {
        f"recovered by the {part}": (top["never"] - top[part]) / gained
        for part in runs
        if part.startswith("last")
    } | {
        "sharpness, never over always": top["never"] / top["always"],
        "test loss, last 25 % minus never": loss["last 25 %"] - loss["never"],
        "test loss, last 25 % minus always": loss["last 25 %"] - loss["always"],
        "test loss, always minus never": loss["always"] - loss["never"],
    }
    if arms == "all":
        ends = {"last 25 %": runs["last 25 %"], "another seed": train("never", seed + 1)}
        for name, run in ends.items():
            figures[f"barrier, never to {name}"] = barrier(runs["never"], run)
    panel = Panel("Sharpness", "step", "top eigenvalue", list(curves.values()))
    return Findings(figures, [panel])


def barrier(one: Any, other: Any, points: int = 21) -> float:
    """Return the most by which the training loss on the line between the merged models of
    two runs rises above the line between its ends.

    Args:
        one: A run; its training samples are those of the loss.
        other: Another run of the same model.
        points: Points of the line, ends included.
    """
    setup = prepare(one.models_config())
    train = setup.task.splits[0]
    ends = [dict(run.merged_model().named_parameters()) for run in (one, other)]
    model = one.merged_model()
    losses: list[float] = []
    with torch.no_grad():
        for place in range(points):
            share = place / (points - 1)
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.lerp(ends[0][name], ends[1][name], share))
            losses.append(float(setup.task.loss(model(train.inputs), train.targets)))
    return max(
        loss - losses[0] - place / (points - 1) * (losses[-1] - losses[0])
        for place, loss in enumerate(losses)
    )
