"""A claim about learning rates by block, tried on a small language model."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.claims.optimizers import (
    INSIDE,
    SMALL_GPT,
    Tuned,
    around,
    share_inside,
    train_gpt,
    tune,
)
from decentral.optim.blocks import RATIOS
from decentral.registry import Count, NonNegative, plugin

#: The rate of the run in which sharpness is measured; it is one of AdamW's alone.
_MEASURED = 4e-3
_BLOCKS = ("qk", "ffn", "vo", "norm", "embedding", "head")


@plugin(
    "claim",
    tiny={"steps": 2},
    off={"strength": 0.0},
    paper="Wang et al., The sharpness disparity principle in transformers, ICML 2025",
    says="The blocks of a transformer differ in sharpness in a fixed order, and larger rates for "
    "the flatter blocks speed up pre-training.",
    expect=(
        Expectation(
            "AdamW minus blockwise", "rates by block reach a lower loss, each at the best of "
            "four rates", low=0.0, over="interval", effect=0.04,
        ),
        INSIDE,
        Expectation(
            "steps of AdamW over steps to its loss by block", "in fewer steps", low=1.0,
            over="interval", effect=1.9,
        ),
        Expectation(
            "snapshots in order", "query and key are flatter than feed-forward, that than value and"
            " output, in most snapshots", low=0.6, over="mean",
        ),
        Expectation(
            "Adam-mini minus blockwise Adam-mini", "with Adam-mini rates by block reach a "
            "lower loss, too", low=0.0, over="interval", effect=0.04, optional=True,
        ),
        Expectation(
            "numbers that Adam-mini keeps over AdamW's", "which keeps half as much",
            high=0.55, role="by design", optional=True,
        ),
    ),
)  # fmt: skip
def blockwise(
    lab: Lab, seed: int, *, steps: Count = 400, strength: NonNegative = 1.0
) -> Findings:
    """Train a small GPT with AdamW and with rates by block, each at the best of
    four rates.

    Sharpness is the mean diagonal Fisher information with drawn labels, measured
    nine times in the run with AdamW. Blockwise rates are 10, 8, 6, 4, 1 and 1 for
    embeddings, query and key, feed-forward, value and output, norms and the head; the
    base rate is a quarter of AdamW's. The same is tried with Adam-mini where the
    package ``adam-mini`` is installed.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        strength: Exponent of the ratios between blocks, and of the quarter; 0 is AdamW.
    """
    adamw = {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}
    ratios = {block: ratio**strength for block, ratio in RATIOS.items()}
    rates, lower = _rates(strength)
    sharpness: dict[str, Any] = {"metrics": ("loss", "sharpness")}
    plain = Tuned({
        lr: train_gpt(
            lab, f"AdamW, {lr:g}", seed, steps, adamw, lr, floor=0.05,
            **(sharpness if lr == _MEASURED else {}),
        )
        for lr in rates
    })  # fmt: skip
    by_block = tune(
        lab, "by block", seed, steps, {**adamw, "blockwise": ratios}, lower, floor=0.05
    )
    measured = [one for one in plain.runs[_MEASURED].rows if "sharpness/qk" in one]
    ordered = [
        record["sharpness/qk"] < record["sharpness/ffn"] < record["sharpness/vo"]
        for record in measured
    ]
    losses = {"AdamW": plain.curve("AdamW"), "by block": by_block.curve("by block")}
    figures = {
        "AdamW minus blockwise": plain.loss - by_block.loss,
        INSIDE.figure: share_inside(plain, by_block),
        "steps of AdamW over steps to its loss by block": speed_up(*losses.values()),
        "snapshots in order": sum(ordered) / len(ordered),
    }
    if find_spec("adam_mini"):
        figures |= _with_mini(lab, seed, steps, ratios, strength)
    else:
        lab.say("not run: the arm on Adam-mini (pip install adam-mini==1.1.1)")
    steps_at = [float(record["step"]) for record in measured]
    sharp = [
        Curve(block, steps_at, [record[f"sharpness/{block}"] for record in measured])
        for block in _BLOCKS
    ]
    panels = [
        Panel("Sharpness of the blocks", "step", "mean Fisher information", sharp, "y"),
        Panel("Test loss", "step", "nats per character", list(losses.values())),
    ]
    return Findings(figures, panels)


def _rates(strength: float) -> tuple[list[float], list[float]]:
    """Return the rates that are tried, and the base rates by block in their place."""
    rates = around(_MEASURED, 4)
    return rates, [lr / 4**strength for lr in rates]


def _with_mini(
    lab: Lab, seed: int, steps: int, ratios: dict[str, float], strength: float
) -> dict[str, float]:
    """Return what rates by block are worth to Adam-mini, and what it keeps.

    Args:
        lab: Where runs are made.
        seed: Seed of the runs.
        steps: Their steps.
        ratios: Ratios of the rates, by block.
        strength: Exponent of the quarter that base rates are of AdamW's.
    """
    sizes = {"dim": SMALL_GPT["model"]["width"], "n_heads": SMALL_GPT["model"]["heads"]}
    mini = {
        "name": "adam_mini.Adam_mini", "weight_decay": 0.1, "betas": [0.9, 0.95],
        "verbose": False, **sizes,
    }  # fmt: skip
    rates, lower = _rates(strength)
    plain = tune(lab, "Adam-mini", seed, steps, mini, rates, floor=0.05)
    by_block = tune(
        lab, "Adam-mini by block", seed, steps, {**mini, "blockwise": ratios}, lower,
        floor=0.05,
    )  # fmt: skip
    model = plain.runs[plain.rate].merged_model()
    optimizer: torch.optim.Optimizer = import_module("adam_mini").Adam_mini(
        model.named_parameters(), verbose=False, **sizes
    )
    return {
        "Adam-mini minus blockwise Adam-mini": plain.loss - by_block.loss,
        "Adam-mini, sides whose best rate is inside": share_inside(plain, by_block),
        "numbers that Adam-mini keeps over AdamW's": numbers_kept(optimizer) / 2,
    }


def numbers_kept(optimizer: torch.optim.Optimizer) -> float:
    """Return how many numbers an optimizer keeps from step to step, over those of the
    parameters; counters are none.

    >>> weight = torch.nn.Parameter(torch.ones(3, 5))
    >>> numbers_kept(torch.optim.AdamW([weight]))
    2.0
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(
        value.numel()
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step" and isinstance(value, torch.Tensor)
    )
    return kept / sum(parameter.numel() for parameter in parameters)


def speed_up(base: Curve, other: Curve) -> float:
    """Return the steps of a run over those in which another comes to its loss, on lines
    between evaluations; 0 where it never does.

    >>> speed_up(Curve("", [0, 2], [3, 1]), Curve("", [0, 1, 2], [3, 1, 0]))
    2.0
    """
    points = list(zip(other.x, other.y, strict=True))
    for (before, above), (after, below) in pairwise(points):
        if below <= base.y[-1]:
            way = (above - base.y[-1]) / (above - below) if above > below else 1.0
            return base.x[-1] / (before + way * (after - before))
    return 0.0
