"""Local training methods over several seeds: LITE, GradPower and rates by block.

    python benchmarks/methods.py lite|grad_power|blockwise|mergeability|real_text [--seeds 3]

The first three train the small GPT on the Python reference on one node and print its loss on the
test text, as does the last, a larger one on any text; the fourth trains 16 nodes under the late
schedule and prints what a merge brings. The settings are those of
``configs/papers/``, and what a table varies.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import decentral

PAPERS = Path(__file__).resolve().parent.parent / "configs" / "papers"

MUON = {"name": "muon", "newton_schulz": "polar", "steps": 6}
LITE = {
    "name": "muon_lite",
    "betas": [0.9, 0.95],
    "chi": {"embedding": 1, "norm": 1, "head": 1},
}
ADAMW = {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}
BY_LAYER = {"1.*": 4, "3.*": 2, "5.*": 1}

Line = tuple[str, float, dict[str, Any]]  # label, peak learning rate, optimizer

#: By table: the lines; the configuration has its name.
TABLES: dict[str, list[Line]] = {
    "lite": [
        *(("Muon", lr, MUON) for lr in (4e-3, 8e-3, 1.6e-2)),
        ("LITE", 8e-3, LITE),
    ],
    "grad_power": [(f"p = {p}", 4e-3, {**ADAMW, "grad_power": p}) for p in (1.0, 1.2)],
    "blockwise": [
        ("one rate", 4e-3, ADAMW),
        ("by block", 1e-3, {**ADAMW, "blockwise": True}),
    ],
    "mergeability": [
        ("AdamW", 1e-3, {"name": "adamw"}),
        ("p = 1.2", 1e-3, {"name": "adamw", "grad_power": 1.2}),
        ("4, 2, 1 by layer", 1e-3, {"name": "adamw", "blockwise": BY_LAYER}),
    ],
    "real_text": [
        *(("one rate", lr, ADAMW) for lr in (1e-3, 2e-3, 4e-3)),
        *(("p = 1.2", lr, {**ADAMW, "grad_power": 1.2}) for lr in (1e-3, 2e-3, 4e-3)),
        *(("by block", lr, {**ADAMW, "blockwise": True}) for lr in (2.5e-4, 5e-4, 1e-3)),
    ],
}


def measure(
    table: str, lr: float, optimizer: dict[str, Any], seed: int, text: str | None
) -> dict[str, float]:
    """Run once and return the headline numbers."""
    own: dict[str, Any] = {} if text is None else {"task.path": text}
    with tempfile.TemporaryDirectory() as folder:
        config, out = PAPERS / f"{table}.yaml", f"{folder}/run"
        run = decentral.launch(
            config, optimizer=optimizer, lr=lr, seed=seed, out=out, **own
        )
        before, final = run.summary["before_merge"], run.summary["final"]
    if "accuracy/merged" not in final:
        return {"loss": final["loss/merged"]}
    return {
        "local %": 100 * before["accuracy/local_mean"],
        "merged %": 100 * final["accuracy/merged"],
        "gain, points": 100 * (final["accuracy/merged"] - before["accuracy/local_mean"]),
        "merged loss": final["loss/merged"],
    }


def cells(values: list[float]) -> Iterator[str]:
    """Yield the mean with its spread, and every seed's value."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 4 if max(values) < 10 else 1
    yield f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"
    yield " / ".join(f"{value:.{digits}f}" for value in values)


def main() -> None:
    """Print one table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--text", help="the text to train on instead of the Python reference"
    )
    arguments = parser.parse_args()
    for label, lr, optimizer in TABLES[arguments.table]:
        seeds = range(arguments.seeds)
        found = [
            measure(arguments.table, lr, optimizer, s, arguments.text) for s in seeds
        ]
        for key in found[0]:
            mean, each = cells([line[key] for line in found])
            print(f"| {label} | {lr:g} | {key} | {mean} | {each} |", flush=True)


if __name__ == "__main__":
    main()
