"""Blockwise learning rates."""

from __future__ import annotations

from typing import Any

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.claims.lite import trained
from decentral.claims.single_merge import series
from decentral.registry import Count, plugin

#: The rate of the run in which sharpness is measured; it is one of AdamW's alone.
_MEASURED = 4e-3
_BLOCKS = ("qk", "ffn", "vo", "norm", "embedding", "head")


@plugin(
    "claim",
    tiny={"steps": 2},
    paper="Wang et al., The sharpness disparity principle in transformers, ICML 2025",
    says="The blocks of a transformer differ in sharpness in a fixed order, and larger rates for "
    "the flatter blocks speed up pre-training.",
    expect=(
        Expectation(
            "snapshots in order", "query and key are flatter than feed-forward, that than value and"
            " output, in most snapshots", low=0.6, over="mean",
        ),
        Expectation(
            "AdamW minus blockwise", "rates by block reach a lower loss at the best of three rates",
            low=0.0, over="mean",
        ),
    ),
)  # fmt: skip
def blockwise(lab: Lab, seed: int, *, steps: Count = 800) -> Findings:
    """Train a small GPT with AdamW and with rates by block, each at the best of three rates.

    Sharpness is the mean diagonal Fisher information with drawn labels, measured nine times in the
    run with AdamW. Blockwise rates are 10, 8, 6, 4, 1 and 1 for embeddings, query and key,
    feed-forward, value and output, norms and the head.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
    """
    adamw = {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}
    plain = {lr: _run(lab, seed, steps, adamw, lr) for lr in (2e-3, _MEASURED, 8e-3)}
    blocks = {"blockwise": True}
    by_block = {lr: _run(lab, seed, steps, {**adamw, **blocks}, lr) for lr in (5e-4, 1e-3, 2e-3)}
    best = [min(map(_loss, runs.values())) for runs in (plain, by_block)]
    measured = [row for row in plain[_MEASURED].rows if "sharpness/qk" in row]
    ordered = [row["sharpness/qk"] < row["sharpness/ffn"] < row["sharpness/vo"] for row in measured]
    figures = {
        "snapshots in order": sum(ordered) / len(ordered),
        "AdamW minus blockwise": best[0] - best[1],
        "AdamW minus blockwise, equal rate 0.002": _loss(plain[2e-3]) - _loss(by_block[2e-3]),
    }
    steps_at = [float(row["step"]) for row in measured]
    sharp = [
        Curve(block, steps_at, [row[f"sharpness/{block}"] for row in measured]) for block in _BLOCKS
    ]
    losses = [
        series(runs[lr], f"{name}, {lr:g}", "loss/merged")
        for name, runs in (("AdamW", plain), ("by block", by_block))
        for lr in runs
    ]
    return Findings(
        figures,
        [
            Panel("Sharpness of the blocks", "step", "mean Fisher information", sharp, "y"),
            Panel("Test loss", "step", "nats per character", losses),
        ],
    )


def _run(lab: Lab, seed: int, steps: int, optimizer: dict[str, Any], lr: float) -> Any:
    label = f"{'by block' if 'blockwise' in optimizer else 'AdamW'}, {lr:g}"
    metrics = ("loss", "sharpness") if lr == _MEASURED else ("loss",)
    return trained(lab, label, seed, steps, optimizer, lr, floor=0.05, metrics=metrics)


def _loss(run: Any) -> float:
    return float(run.summary["final"]["loss/merged"])
