"""SAM late in training."""

from __future__ import annotations

from decentral.claims.base import Expectation, Findings, Lab, Panel
from decentral.claims.single_merge import series
from decentral.registry import Count, Positive, plugin

#: When SAM begins, as a share of the run; None is never.
_STARTS = {"never": None, "last 12.5 %": 0.875, "last 25 %": 0.75, "always": 0.0}


@plugin(
    "claim",
    tiny={"epochs": 2},
    paper="Zhou et al., Sharpness-aware minimization efficiently selects flatter minima late in "
    "training, ICLR 2025",
    says="A few epochs of SAM at the end of training find nearly as flat a minimum as SAM "
    "throughout.",
    expect=(
        Expectation(
            "recovered by the last 25 %",
            "the last quarter recovers most of what SAM throughout gains in sharpness",
            low=0.7, over="mean",
        ),
        Expectation(
            "recovered by the last 12.5 %", "the last eighth recovers half of it",
            low=0.5, over="mean",
        ),
        Expectation(
            "sharpness, never over always", "there is something to recover", low=1.2
        ),
        Expectation(
            "test loss, last 25 % minus never", "the test loss is no worse for it", high=0.02
        ),
    ),
)  # fmt: skip
def late_sam(
    lab: Lab, seed: int, *, epochs: Count = 64, batch: Count = 16, rho: Positive = 0.2
) -> Findings:
    """Switch SAM on in the last quarter, the last eighth, from the start, and never.

    600 digits, one node, a constant rate and label smoothing: without smoothing the loss and with
    it every curvature goes to 0, and with a vanishing rate nothing moves at the end. The sharpness
    is the top eigenvalue of the Hessian of the training loss. Accuracies differ within noise, so
    nothing is claimed of them.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        epochs: Passes over the data.
        batch: Batch size.
        rho: Radius of SAM's ascent.
    """
    steps = max(8, 600 * epochs // batch)
    runs = {
        name: lab.run(
            f"SAM {name}", task="digits(val=0.55457)", nodes=1, algorithm="local", seed=seed,
            steps=steps, batch=batch, eval_every=max(1, steps // 8), label_smoothing=0.1,
            learning_rate=0.02, optimizer="sgd(momentum=0.9, weight_decay=1e-4)",
            metrics=("loss", "accuracy", "curvature"),
            **({} if start is None else {"sam": {"rho": rho, "start": f"{100 * start:g}%"}}),
        )
        for name, start in _STARTS.items()
    }  # fmt: skip
    curves = {name: series(run, name, "curvature/top_merged") for name, run in runs.items()}
    top = {name: curve.y[-1] for name, curve in curves.items()}
    gained = top["never"] - top["always"]
    loss = {name: run.summary["final"]["loss/merged"] for name, run in runs.items()}
    figures = {
        f"recovered by the {part}": (top["never"] - top[part]) / gained
        for part in ("last 25 %", "last 12.5 %")
    } | {
        "sharpness, never over always": top["never"] / top["always"],
        "test loss, last 25 % minus never": loss["last 25 %"] - loss["never"],
        "test loss, always minus never": loss["always"] - loss["never"],
    }
    panel = Panel("Sharpness", "step", "top eigenvalue", list(curves.values()))
    return Findings(figures, [panel])
