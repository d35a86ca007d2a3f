"""What bad nodes and faults do to a run, under several schedules and rules of aggregation.

    python benchmarks/trouble.py --seeds 3

Digits on 16 nodes, 600 steps, Erdős-Rényi (p = 0.5), identically distributed data unless it says
otherwise. What is shown is the accuracy of the average of the good nodes, at the end, in percent.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import decentral

COMMON: dict[str, Any] = {
    "task": "digits", "nodes": 16, "steps": 600, "topology": "erdos_renyi(p=0.5)", "threads": 1,
    "split": "iid", "eval_every": 600, "metrics": ["accuracy", "loss"],
}  # fmt: skip
SCHEDULES = {
    "constant": "constant",
    "late": "late",
    "one merge": {"name": "none", "final_merge": True},
}
ATTACKS = {
    "nobody": {},
    "2 flip signs": {"attack": "sign_flip(nodes=[3, 8])"},
    "2 send noise": {"attack": "noise(nodes=[3, 8], scale=10.0)"},
    "2 are dead": {"attack": "constant(nodes=[3, 8])"},
    "2 flip labels": {"attack": "label_flip(nodes=[3, 8])"},
}
RULES = ("weighted", "trimmed_mean(cut=2)", "median", "clipping(bad=2)")
FAULTS = {
    "nothing": {},
    "churn, away half of the time": {"faults": ["churn(share=0.5)"]},
    "half of the links down": {"faults": ["outages(share=0.5)"]},
    "half of the messages lost": {"faults": ["lost(share=0.5)"]},
    "the same, both ways": {"faults": ["lost(share=0.5, both=true)"]},
    "the same, in bursts": {"faults": ["bursts(share=0.5)"]},
}


def accuracy(seed: int, **settings: Any) -> float:
    """Run once and return the accuracy of the merged model, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        try:
            final = decentral.launch(
                out=out, seed=seed, **{**COMMON, **settings}
            ).summary["final"]
        except decentral.RunError:  # a model became infinite
            return float("nan")
    return 100 * final["accuracy/merged"]


def cell(seeds: int, **settings: Any) -> str:
    """Return mean and spread over seeds."""
    found = [accuracy(seed, **settings) for seed in range(seeds)]
    spread = f" ± {statistics.stdev(found):.1f}" if seeds > 1 else ""
    return f"{statistics.fmean(found):.1f}{spread}"


def attacked(seeds: int) -> None:
    """Print what bad nodes do."""
    print(f"| bad nodes | aggregation | {' | '.join(SCHEDULES)} |")
    print("|---|---|" + "--:|" * len(SCHEDULES))
    for name, attack in ATTACKS.items():
        for rule in RULES if attack else RULES[:1]:
            cells = [
                cell(seeds, aggregation=rule, communication=schedule, **attack)
                for schedule in SCHEDULES.values()
            ]
            print(f"| {name} | `{rule}` | {' | '.join(cells)} |", flush=True)


def faulty(seeds: int) -> None:
    """Print what faults do, with heterogeneous data."""
    print("\n| fault | constant | late |\n|---|--:|--:|")
    for name, fault in FAULTS.items():
        cells = [
            cell(seeds, communication=SCHEDULES[s], split="dirichlet", **fault)
            for s in ("constant", "late")
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    faulty(arguments.seeds)
    attacked(arguments.seeds)


if __name__ == "__main__":
    main()
