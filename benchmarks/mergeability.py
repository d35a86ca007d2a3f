"""Figures over several seeds: who sends when, and what a single merge brings.

    python benchmarks/mergeability.py --seeds 8
    python benchmarks/mergeability.py --seeds 3 --task "mnist(path=DIR)" --only "ring, late"

Prints mean and standard deviation over seeds of the local mean just before the merge, of the merged
model, and of the bytes relative to all-reduce at every step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import decentral

SETTINGS: dict[str, dict[str, Any]] = {
    "all-reduce": {"algorithm": "allreduce"},
    "ring, late": {"topology": "ring", "communication": "late"},
    "complete, 0.1/15": {"topology": "complete", "intensity": 0.1 / 15},
    "complete, 0.2/15": {"topology": "complete", "intensity": 0.2 / 15},
    "complete, 0.4/15": {"topology": "complete", "intensity": 0.4 / 15},
    # Its one merge is sent, and counted, as those of the others are.
    "no communication": {"communication": {"name": "none", "final_merge": True}},
    "no communication, lr 0.05": {
        "algorithm": "local",
        "steps": 1500,
        "lr": 0.05,
        "optimizer": {"name": "sgd", "momentum": 0.0},
    },
}


def settings_of(name: str) -> dict[str, Any]:
    """Return a setting's keywords for ``decentral.launch``."""
    given = dict(SETTINGS[name])
    if "intensity" in given:
        given["communication"] = {
            "name": "constant",
            "intensity": given.pop("intensity"),
            "final_merge": True,
        }
    return given


def measure(name: str, task: str, seed: int) -> dict[str, float]:
    """Run one setting once and return its headline numbers."""
    given = {"task": task, "seed": seed, **settings_of(name)}
    with tempfile.TemporaryDirectory() as folder:
        summary = decentral.launch(out=str(Path(folder) / "run"), **given).summary
    return {
        "local": 100 * summary["before_merge"]["accuracy/local_mean"],
        "merged": 100 * summary["final"]["accuracy/merged"],
        "bytes": 100 * summary["counters"]["comm/relative"],
        "gigabytes": summary["counters"]["comm/bytes"] / 1e9,
        "wall_s": summary["counters"]["time/wall_s"],
    }


def main() -> None:
    """Run every setting over the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    everything: dict[str, list[dict[str, float]]] = {}
    print(
        f"{'setting':<24}{'local %':>14}{'merged %':>14}{'bytes %':>10}{'GB':>8}{'s/run':>8}"
    )
    for name in arguments.only:
        rows = everything[name] = [
            measure(name, arguments.task, seed) for seed in range(arguments.seeds)
        ]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        spread = {
            k: statistics.stdev(v) if len(v) > 1 else 0.0 for k, v in columns.items()
        }
        mean = {k: statistics.fmean(v) for k, v in columns.items()}
        local = f"{mean['local']:.1f} ± {spread['local']:.1f}"
        merged = f"{mean['merged']:.1f} ± {spread['merged']:.1f}"
        cost = f"{mean['bytes']:>10.2f}{mean['gigabytes']:>8.2f}"
        print(
            f"{name:<24}{local:>14}{merged:>14}{cost}{mean['wall_s']:>8.1f}", flush=True
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
