"""Accuracy at equal simulated seconds: as many steps as each way to communicate has time for.

    python benchmarks/seconds.py --seeds 3

Sixteen nodes, digits, 20 ms a step. Every setting takes as many steps, at most 3,000, as a forecast
says end within ``--limit`` simulated seconds on the network, its final merge included.

    python benchmarks/seconds.py --algorithms --limit 6 --seeds 3

takes the rows of algorithms.py instead, with ten local steps and one merge at the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import algorithms
from common import table

import decentral
from decentral.config import make_config, resolve_aliases
from decentral.loop.preparing import prepare
from decentral.network.clock import forecast, forecast_all_reduce

NETWORKS = ("datacenter", "home", "satellite")
SETTINGS: dict[str, dict[str, Any]] = {
    "all-reduce at every step": {"algorithm": "allreduce"},
    "ring, `late`": {"topology": "ring", "communication": "late"},
    "ring, `constant`, one merge": {
        "topology": "ring",
        "communication": "constant(final_merge=true)",
    },
    "one-peer exponential, `constant`, one merge": {
        "topology": "one_peer_exponential",
        "communication": "constant(final_merge=true)",
    },
}
MOST, STEP_S = 3000, 0.02


def seconds(given: dict[str, Any], steps: int) -> float:
    """Return the simulated seconds of a run of so many steps."""
    setup = prepare(make_config(resolve_aliases({**given, "steps": steps})))
    if setup.planner is None:
        nodes, size = setup.config.nodes, setup.gradient_bytes
        return forecast_all_reduce(setup.clock(), nodes, steps, size).seconds
    return forecast(setup.planner, setup.clock(), setup.row_bytes).seconds


def steps_within(given: dict[str, Any], limit_s: float) -> int:
    """Return the most steps, at most MOST, that end in time."""
    low, high = 1, min(MOST, int(limit_s / STEP_S))
    if seconds(given, high) <= limit_s:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if seconds(given, middle) <= limit_s else (low, middle - 1)
        )
    return low


def ways(name: str) -> dict[str, Any]:
    """Return the settings of a row of algorithms.py, its bytes left open."""
    setting = algorithms.SETTINGS[name]
    if setting.get("algorithm") == "allreduce":
        return setting
    talk = {"topology": "ring", "communication": algorithms.GOSSIP, "local_steps": 10}
    return {**talk, **setting}


def measure(given: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run one setting once and return its summary."""
    with tempfile.TemporaryDirectory() as folder:
        return decentral.launch(out=str(Path(folder) / "run"), seed=seed, **given).summary


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="simulated seconds")
    parser.add_argument(
        "--algorithms", action="store_true", help="the rows of algorithms.py"
    )
    arguments = parser.parse_args()
    settings = {name.partition(" (")[0]: ways(name) for name in algorithms.SETTINGS}
    for network in NETWORKS:
        rows: list[list[object]] = []
        for name, setting in (settings if arguments.algorithms else SETTINGS).items():
            given = {**setting, "network": network, "compute": f"{1000 * STEP_S:g}ms"}
            steps = steps_within(given, arguments.limit)
            runs = [
                measure({**given, "steps": steps}, seed)
                for seed in range(arguments.seeds)
            ]
            scores = [100 * run["final"]["accuracy/merged"] for run in runs]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            used_s = max(run["counters"]["time/simulated_s"] for run in runs)
            sent = statistics.mean(run["counters"]["comm/bytes"] for run in runs) / 16e6
            rows.append(
                [name, f"{steps:,}", f"{used_s:.1f}", f"{sent:.1f}",
                 f"{statistics.mean(scores):.1f} ± {spread:.1f}"]
            )  # fmt: skip
        head = ["setting", "steps", "simulated s", "MB/node", "merged accuracy, %"]
        table(f"{network}, {arguments.limit:g} simulated seconds", head, rows)


if __name__ == "__main__":
    main()
