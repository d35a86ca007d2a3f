"""LITE."""

from __future__ import annotations

from typing import Any

from decentral.claims.base import Expectation, Findings, Lab, Panel
from decentral.claims.single_merge import series
from decentral.registry import Count, Positive, plugin

#: The setting of a small language model in which optimizers are compared.
SMALL_GPT: dict[str, Any] = {
    "task": {"name": "text", "context": 32},
    "model": {"name": "gpt", "layers": 2, "width": 64, "heads": 4},
    "nodes": 1,
    "algorithm": "local",
    "batch": 16,
    "clip": 1.0,
}


@plugin(
    "claim",
    tiny={"steps": 2},
    paper="Zhu et al., LITE, arXiv 2602.22681, 2026",
    says="Bolder and less damped steps along flat directions speed up Muon.",
    expect=(
        Expectation("Muon minus LITE", "LITE reaches a lower loss at Muon's best rate", low=0.0),
        Expectation(
            "Muon minus LITE", "by about 0.02 to 0.03 nats", low=0.01, high=0.05,
            over="mean",
        ),
        Expectation(
            "best other rate minus Muon", "the rate is Muon's best (of half, once, twice)",
            low=-0.005, over="mean",
        ),
    ),
)  # fmt: skip
def lite(lab: Lab, seed: int, *, steps: Count = 800, lr: Positive = 0.008) -> Findings:
    """Train a small GPT on the language reference of Python with Muon and with Muon-LITE.

    LITE acts on hidden matrices only, with the authors' damping (-1/4, 1) and chi 2. Losses are
    those of the test text, in nats per character.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        lr: Learning rate.
    """
    muon = {"name": "muon", "newton_schulz": "polar", "steps": 6}
    on_matrices = {"embedding": 1, "norm": 1, "head": 1}
    bold = {"name": "muon_lite", "betas": [0.9, 0.95], "chi": on_matrices}
    tried = {
        "Muon": (muon, lr), "LITE": (bold, lr),
        "Muon, half the rate": (muon, lr / 2), "Muon, twice the rate": (muon, 2 * lr),
    }  # fmt: skip
    runs = {
        name: trained(lab, name, seed, steps, optimizer, rate, floor=0.1)
        for name, (optimizer, rate) in tried.items()
    }
    loss = {name: float(run.summary["final"]["loss/merged"]) for name, run in runs.items()}
    figures = {
        "Muon minus LITE": loss["Muon"] - loss["LITE"],
        "best other rate minus Muon": min(
            loss[name] for name in loss if name.startswith("Muon,")
        ) - loss["Muon"],
    }  # fmt: skip
    curves = [series(run, name, "loss/merged") for name, run in runs.items()]
    return Findings(figures, [Panel("Test loss", "step", "nats per character", curves)])


def trained(
    lab: Lab, label: str, seed: int, steps: int, optimizer: Any, lr: float, floor: float,
    **settings: Any,
) -> Any:  # fmt: skip
    """Return a run of the small GPT with an optimizer at a peak rate."""
    rate = {"name": "cosine", "lr": lr, "warmup": "10%", "floor": floor}
    return lab.run(
        label, **{**SMALL_GPT, "metrics": ("loss",), **settings}, seed=seed, steps=steps,
        optimizer=optimizer, learning_rate=rate, eval_every=max(1, steps // 8),
    )  # fmt: skip
