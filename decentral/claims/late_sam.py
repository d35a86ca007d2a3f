"""A claim about sharpness-aware minimisation: a few epochs of it are enough."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.loop.preparing import prepare
from decentral.registry import Count, NonNegative, Positive, plugin
from decentral.theory.reduced import growth_rate

#: When SAM, or adversarial training, is on, as shares of the run; None is never.
_PHASES = {
    "never": None, "last 12.5 %": (0.875, 1.0), "last 25 %": (0.75, 1.0),
    "always": (0.0, 1.0), "first 50 %": (0.0, 0.5),
}  # fmt: skip
#: Steps over which the loss is followed after SAM is switched on: two epochs.
_FOLLOWED_EPOCHS = 2
_SAMPLES, _SMOOTHING = 600, 0.1


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
        Expectation(
            "recovered by the first 50 %", "SAM early in training is worth little", high=0.5,
            over="mean",
        ),
        Expectation(
            "growth rate of the loss after the switch", "SAM leaves the minimum of SGD "
            "exponentially fast: the loss rises ever faster, up to half of its rise", low=0.0,
            over="interval",
        ),
        Expectation(
            "robust accuracy, always minus never", "adversarial training makes robust, by "
            "at least 5 points", low=0.05,
        ),
        Expectation(
            "robust accuracy recovered by the last 25 %", "and its last quarter is most of "
            "that", low=0.5, over="mean",
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
    eps: Positive = 0.1,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Switch SAM on in the last quarter, the last eighth, the first half, from the start,
    and never; and adversarial training likewise.

    600 digits, one node, a constant rate and label smoothing: without smoothing the
    loss and with it every curvature goes to 0, and with a vanishing rate nothing
    moves at the end. The sharpness is the top eigenvalue of the Hessian of the
    training loss; a barrier is the most by which the training loss on the straight line
    between two models rises above the line between its ends. Accuracies differ within
    noise, so nothing is claimed of them. The growth rate b is that of a (exp(b t) - 1) /
    b, fitted to what SAM adds to the smoothed training loss, step by step, of runs that
    see the same batches: above 0 the rise is exponential, at 0 a line, below 0 it levels off at
    once. Robust accuracy is that on test inputs moved by up to ``eps``, against which
    runs of adversarial training are trained.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        epochs: Passes over the data.
        batch: Batch size.
        rho: Radius of SAM's ascent; 0 is without.
        eps: Largest change of a pixel under attack, of a range of 1.
        arms: Whether ``all`` is measured, or the ``heart``: the last quarter.
    """
    digits = Digits(lab, max(8, _SAMPLES * epochs // batch), batch, rho)
    names = _PHASES if arms == "all" else ("never", "last 25 %", "always")
    # The curvature is most of the cost; the heart needs that of the end only.
    often = 8 if arms == "all" else 1
    runs = {name: digits.train(name, seed, often) for name in names}
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
        if part not in ("never", "always")
    } | {
        "sharpness, never over always": top["never"] / top["always"],
        "test loss, last 25 % minus never": loss["last 25 %"] - loss["never"],
        "test loss, last 25 % minus always": loss["last 25 %"] - loss["always"],
        "test loss, always minus never": loss["always"] - loss["never"],
    }
    panels = [Panel("Sharpness", "step", "top eigenvalue", list(curves.values()))]
    if arms == "all":
        ends = {
            "last 25 %": runs["last 25 %"],
            "another seed": digits.train("never", seed + 1, often),
        }
        for name, run in ends.items():
            figures[f"barrier, never to {name}"] = barrier(runs["never"], run)
        rise = digits.follow_switch(seed)
        figures["growth rate of the loss after the switch"] = growth_rate(rise.x, rise.y)
        figures |= digits.compare_robust(seed, eps)
        panels.append(
            Panel("After the switch to SAM", "step", "training loss added", [rise])
        )
    return Findings(figures, panels)


@dataclass(frozen=True)
class Digits:
    """Runs on the same digits that differ in when a method is on."""

    lab: Lab
    steps: int
    batch: int
    rho: float

    def train(self, name: str, seed: int, often: int) -> Any:
        """Return the run with SAM in a phase, evaluated so many times."""
        return self._run(
            f"SAM {name}", seed, self.steps, max(1, self.steps // often),
            ("loss", "accuracy", "curvature"), **self._phase("sam", {"rho": self.rho}, name),
        )  # fmt: skip

    def follow_switch(self, seed: int) -> Curve:
        """Return what SAM adds to the training loss after it is switched on at three
        quarters, step by step.
        """
        switch = 3 * self.steps // 4
        last = switch + max(4, _FOLLOWED_EPOCHS * _SAMPLES // self.batch)
        sam = {"sam": {"rho": self.rho, "start": switch}} if self.rho else {}
        loss = (f"train_loss(smoothing={_SMOOTHING})",)
        with_, without = (
            series(
                self._run(name, seed, last, 1, loss, **method), name,
                "train_loss/merged",
            )
            for name, method in (("switched to SAM", sam), ("not switched", {}))
        )  # fmt: skip
        added = [
            (step - switch, one - other)
            for step, one, other in zip(with_.x, with_.y, without.y, strict=True)
            if step >= switch
        ]
        return Curve("added by SAM", [x for x, _ in added], [y for _, y in added])

    def compare_robust(self, seed: int, eps: float) -> dict[str, float]:
        """Return what adversarial training in a phase is worth under attack."""
        robust = {
            name: float(
                self._run(
                    f"adversarial {name}", seed, self.steps, self.steps,
                    ("accuracy", f"robust_accuracy(eps={eps:g})"),
                    **self._phase("adversarial", {"eps": eps, "steps": 5}, name),
                ).summary["final"]["robust_accuracy/merged"]
            )
            for name in ("never", "last 25 %", "always")
        }  # fmt: skip
        gained = robust["always"] - robust["never"]
        return {
            "robust accuracy, always minus never": gained,
            "robust accuracy recovered by the last 25 %":
                (robust["last 25 %"] - robust["never"]) / (gained or inf),
        } | {f"robust accuracy, {name}": value for name, value in robust.items()}  # fmt: skip

    def _phase(self, method: str, main: dict[str, Any], name: str) -> dict[str, Any]:
        phase = _PHASES[name]
        if phase is None or not all(main.values()):
            return {}
        start, stop = (f"{100 * share:g}%" for share in phase)
        until = {} if stop == "100%" else {"stop": stop}
        return {method: {**main, "start": start, **until}}

    def _run(
        self, label: str, seed: int, steps: int, every: int, metrics: Any, **method: Any
    ) -> Any:
        return self.lab.run(
            label, task="digits(val=0.55457)", nodes=1, algorithm="local", seed=seed,
            steps=steps, batch=self.batch, eval_every=every, label_smoothing=_SMOOTHING,
            learning_rate=0.02, optimizer="sgd(momentum=0.9, weight_decay=1e-4)",
            metrics=metrics, **method,
        )  # fmt: skip


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
