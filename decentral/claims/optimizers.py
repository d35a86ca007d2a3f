"""A claim about an optimizer, tried on a small language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

import torch

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.optim.muon import Muon, MuonLite
from decentral.registry import Count, Positive, plugin

#: The peak rate of SOAP between a lower and a higher one.
_SOAP_LR = 0.003
#: The setting of a small language model in which optimizers are compared.
SMALL_GPT: dict[str, Any] = {
    "task": {"name": "text", "context": 32},
    "model": {"name": "gpt", "layers": 2, "width": 64, "heads": 4},
    "nodes": 1,
    "algorithm": "local",
    "batch": 16,
    "clip": 1.0,
    # Evaluations between the first and the last, which take the whole test text, would
    # otherwise cost as much as 800 steps.
    "eval_samples": 256,
}


@dataclass(frozen=True)
class Tuned:
    """Runs that differ in their peak rate."""

    runs: Mapping[float, Any]

    @property
    def losses(self) -> dict[float, float]:
        """The test loss at the end, by rate."""
        return {lr: end_loss(run) for lr, run in self.runs.items()}

    @property
    def rate(self) -> float:
        """The best rate."""
        return min(self.losses, key=lambda lr: self.losses[lr])

    @property
    def loss(self) -> float:
        """The loss there."""
        return min(self.losses.values())

    @property
    def is_inside(self) -> bool:
        """Whether the best rate is neither the least nor the greatest."""
        return min(self.runs) < self.rate < max(self.runs)

    def curve(self, label: str) -> Curve:
        """Return the loss at the best rate over steps."""
        return series(self.runs[self.rate], label, "loss/merged")


def tune(
    lab: Lab, label: str, seed: int, steps: int, optimizer: Any, rates: Sequence[float],
    **settings: Any,
) -> Tuned:  # fmt: skip
    """Train the small GPT at each of several peak rates.

    Args:
        lab: Where runs are made.
        label: Name of the optimizer.
        seed: Seed of the runs.
        steps: Steps of a run.
        optimizer: The optimizer.
        rates: Peak rates.
        settings: As `train_gpt` takes them.
    """
    return Tuned(
        {
            lr: train_gpt(
                lab, f"{label}, {lr:.3g}", seed, steps, optimizer, lr, **settings
            )
            for lr in rates
        }
    )


def around(lr: float, rates: int) -> list[float]:
    """Return so many rates, each twice the one before, with one in the middle.

    >>> around(0.1, 3)
    [0.05, 0.1, 0.2]
    """
    return [lr * 2.0 ** (place - rates // 2) for place in range(rates)]


def share_inside(*tuned: Tuned) -> float:
    """Return the share of the sides whose best rate is inside of their rates."""
    return sum(one.is_inside for one in tuned) / len(tuned)


#: Over most seeds a best rate is to be inside of those that were tried: one at their
#: edge may not be the best.
INSIDE = Expectation(
    "sides whose best rate is inside", "the best rates are bracketed", low=1.0,
    over="median", role="condition",
)  # fmt: skip


@plugin(
    "claim",
    tiny={"steps": 2},
    quick={"steps": 100, "rates": 1, "arms": "heart"},
    off={"chi": 1.0, "beta1": 0.0, "beta2": 0.0},
    paper="Zhu et al., LITE, arXiv 2602.22681, 2026",
    says="Bolder and less damped steps along flat directions speed up Muon.",
    expect=(
        Expectation(
            "Muon minus LITE", "LITE reaches a lower loss, by at least 0.01 nats, each at "
            "the best of three rates", low=0.01, over="interval", effect=0.02,
        ),
        INSIDE,
        Expectation(
            "Muon minus LITE, WSD", "also under a rate that stays and then decays", low=0.0,
            over="interval", effect=0.02,
        ),
        Expectation(
            "SOAP minus SOAP-LITE", "it speeds up SOAP, too (our analogue)", low=0.0,
            over="interval", effect=0.02,
        ),
        Expectation(
            "flat loss of LITE over Muon's, valley", "in a quadratic valley it is faster "
            "along flat directions", high=0.5,
        ),
        Expectation(
            "sharp loss of LITE over Muon's, valley", "and no slower along sharp ones",
            high=1.1,
        ),
    ),
)  # fmt: skip
def lite(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 400,
    lr: Positive = 0.008,
    rates: Count = 3,
    chi: Positive = 2.0,
    beta1: float = -0.25,
    beta2: float = 1.0,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Train a small GPT on the language reference of Python with Muon and SOAP, and with
    the LITE variant of each.

    LITE acts on hidden matrices only, with the authors' damping (-1/4, 1) and chi 2.
    Losses are those of the test text, in nats per character. In the valley, 4 of 40
    directions are a thousand times as sharp as the others, and the first damping is 0:
    at -1/4 the sharp directions fare worse there.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        lr: Learning rate of Muon and LITE in the middle of those tried.
        rates: How many are tried, each twice the one before.
        chi: How much bolder steps along flat directions are.
        beta1: Weight of the gradient along sharp directions.
        beta2: Weight of the gradient along flat directions, in the end.
        arms: Whether ``all`` is measured, or the ``heart``: Muon under a cosine.
    """
    untouched = dict.fromkeys(("embedding", "norm", "head"), 1.0)
    bolder = {
        "betas": [0.9, 0.95], "beta1": beta1, "beta2": beta2,
        "chi": {**dict.fromkeys(("qk", "vo", "qkv", "ffn", "other"), chi), **untouched},
    }  # fmt: skip
    muon = {"name": "muon", "newton_schulz": "polar", "steps": 6}
    sides = {"Muon": muon, "LITE": {"name": "muon_lite", **bolder}}
    tuned = {
        name: tune(lab, name, seed, steps, optimizer, around(lr, rates), floor=0.1)
        for name, optimizer in sides.items()
    }
    figures = {
        "Muon minus LITE": tuned["Muon"].loss - tuned["LITE"].loss,
        INSIDE.figure: share_inside(*tuned.values()),
    }
    if arms == "all":
        # At the rates that were found best: tuned alike for both sides.
        muon_wsd, lite_wsd = (
            end_loss(train_gpt(
                lab, f"{name}, WSD", seed, steps, optimizer, tuned[name].rate, schedule="wsd"
            ))
            for name, optimizer in sides.items()
        )  # fmt: skip
        soap = {
            "SOAP": {"name": "soap", "betas": [0.9, 0.95], "weight_decay": 0.1},
            "SOAP-LITE": {"name": "soap_lite", "weight_decay": 0.1, **bolder},
        }
        for name, optimizer in soap.items():
            tried = around(_SOAP_LR, rates)
            tuned[name] = tune(lab, name, seed, steps, optimizer, tried, floor=0.1)
        figures |= {
            "Muon minus LITE, WSD": muon_wsd - lite_wsd,
            "SOAP minus SOAP-LITE": tuned["SOAP"].loss - tuned["SOAP-LITE"].loss,
            "SOAP, sides whose best rate is inside": share_inside(
                tuned["SOAP"], tuned["SOAP-LITE"]
            ),
        } | valley(seed, chi, beta2)
    curves = [one.curve(name) for name, one in tuned.items()]
    return Findings(figures, [Panel("Test loss", "step", "nats per character", curves)])


def train_gpt(
    lab: Lab, label: str, seed: int, steps: int, optimizer: Any, lr: float,
    floor: float = 0.0, schedule: str = "cosine", **settings: Any,
) -> Any:  # fmt: skip
    """Return a run of the small GPT with an optimizer at a peak rate.

    Args:
        lab: Where runs are made.
        label: Name of the run.
        seed: Its seed.
        steps: Its steps.
        optimizer: The optimizer.
        lr: Its peak rate.
        floor: Least rate as a share of the peak.
        schedule: How the rate falls: ``cosine`` or ``wsd``.
        settings: Other settings of the run.
    """
    rate = {"name": schedule, "lr": lr, "warmup": "10%", "floor": floor}
    return lab.run(
        label, **{**SMALL_GPT, "metrics": ("loss",), **settings}, seed=seed, steps=steps,
        optimizer=optimizer, learning_rate=rate, eval_every=max(1, steps // 8),
    )  # fmt: skip


def end_loss(run: Any) -> float:
    """Return the test loss of a run at its end."""
    return float(run.summary["final"]["loss/merged"])


def valley(
    seed: int, chi: float, beta2: float, steps: int = 400, lr: float = 0.02
) -> dict[str, float]:
    """Return the flat and the sharp loss that LITE ends with, each over that of Muon, on
    tr(W H W^T) / 2 with 4 eigenvalues of 1,000 among 36 of 1.

    Args:
        seed: Seed of the start and of the noise, which has the shape of H.
        chi: How much bolder steps along flat directions are.
        beta2: Weight of the gradient along flat directions.
        steps: Steps of the descent, by a cosine to a tenth of the rate.
        lr: Peak rate.
    """
    curvature = torch.ones(40)
    curvature[:4] = 1000.0
    draw = torch.Generator().manual_seed(seed)
    start, noise = torch.randn(64, 40, generator=draw), draw.get_state()
    ends: list[tuple[float, float]] = []
    for kind in (MuonLite, Muon):
        weight = torch.nn.Parameter(start.clone())
        draw.set_state(noise)  # both see the same noise
        named = [("hidden.weight", weight)]
        optimizer: torch.optim.Optimizer = (
            MuonLite(named, lr, steps, beta1=0.0, beta2=beta2, chi={"other": chi},
                     sharp={"other": 0.1}, weight_decay=0.0, schedule="cosine", warmup=0.0,
                     floor=0.1)
            if kind is MuonLite
            else Muon(named, lr, newton_schulz="polar", steps=6, weight_decay=0.0)
        )  # fmt: skip
        for step in range(steps):
            fallen = 0.55 + 0.45 * cos(pi * step / steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * fallen
            drawn = torch.randn(64, 40, generator=draw)
            weight.grad = weight.detach() * curvature + 3.0 * curvature.sqrt() * drawn
            optimizer.step()
        lost = (weight.detach().square() * curvature / 2).sum(0)
        ends.append((float(lost[4:].sum()), float(lost[:4].sum())))
    (flat, sharp), (flat_muon, sharp_muon) = ends
    return {
        "flat loss of LITE over Muon's, valley": flat / flat_muon,
        "sharp loss of LITE over Muon's, valley": sharp / sharp_muon,
    }
