"""Every algorithm, and D-SGD with every codec, on digits at equal logical bytes.

    python benchmarks/algorithms.py --seeds 3

16 nodes, Dirichlet 0.1, settings as shipped and nothing tuned. Every row gets the same bytes, 5 %
of all-reduce at every step: who sends more in a round communicates less often (the column H:
steps between two rounds). One global merge ends every run; local is just before it, merged just
after.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import decentral
from decentral.config import make_config
from decentral.loop.preparing import prepare
from decentral.network import expected_bytes

NODES, STEPS, SHARE = 16, 300, 0.05
MERGES = {"name": "merges"}
GOSSIP = {"name": "constant", "final_merge": True}
POST_LOCAL = {
    "name": "switch", "before": "merges", "after": "every(k=10, schedule=merges)", "at": "50%",
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "all-reduce (20 times the bytes)": {"algorithm": "allreduce"},
    "dsgd": {},
    "push_sum": {"algorithm": "push_sum", "topology": "exponential"},
    "gradient_tracking": {"algorithm": "gradient_tracking"},
    "exact_diffusion": {"algorithm": "exact_diffusion"},
    "quasi_global_momentum": {"algorithm": "quasi_global_momentum"},
    "damsgrad": {"algorithm": "damsgrad"},
    "relay_sum": {"algorithm": "relay_sum", "topology": "binary_tree"},
    "noloco": {"algorithm": "noloco", "topology": "random_matchings"},
    "local_sgd": {"algorithm": "local_sgd", "communication": MERGES},
    "diloco": {"algorithm": "diloco", "communication": MERGES},
    "post_local_sgd": {"algorithm": "post_local_sgd", "communication": POST_LOCAL},
    "diloco, 4 fragments in turn": {
        "algorithm": "streaming_diloco",
        "communication": {"name": "merges", "final_merge": True},
    },
    "slowmo": {"algorithm": "slowmo", "communication": MERGES},
    "teleportation, 4 active": {
        "algorithm": "teleportation",
        "topology": "teleportation",
    },
    "dsgd, bf16": {"codec": "bf16"},
    "dsgd, int8": {"codec": "int8"},
    "dsgd, random_k(0.1)": {"codec": "random_k(0.1)"},
    "dsgd, choco(top_k(0.01))": {"codec": "choco(codec=top_k(0.01), step=0.05)"},
    "dsgd, choco(sign)": {"codec": "choco(codec=sign, step=0.1)"},
    "dsgd, choco(low_rank(1))": {"codec": "choco(codec=low_rank(1), step=0.1)"},
}


def settings_of(name: str) -> dict[str, Any]:
    """Return a row's settings, with as few local steps as its bytes allow."""
    common = {"task": "digits", "nodes": NODES, "steps": STEPS, "threads": 1}
    if SETTINGS[name].get("algorithm") == "allreduce":
        return {**common, **SETTINGS[name]}
    given = {**common, "topology": "ring", "communication": GOSSIP, **SETTINGS[name]}
    setup = prepare(make_config({**given, "local_steps": 1}))
    talk = setup.planner
    assert talk is not None
    affordable = SHARE * setup.all_reduce_bytes
    costs = (
        expected_bytes(replace(talk, local_steps=h), setup.size)
        for h in range(1, STEPS + 1)
    )
    fitting = (steps for steps, cost in enumerate(costs, start=1) if cost <= affordable)
    return {**given, "local_steps": next(fitting, STEPS)}


def measure(name: str, seed: int) -> dict[str, float]:
    """Run one row once and return its headline numbers."""
    given = settings_of(name)
    with tempfile.TemporaryDirectory() as folder:
        summary = decentral.launch(
            out=str(Path(folder) / "run"), seed=seed, **given
        ).summary
    return {
        "H": given.get("local_steps", 1),
        "local": 100 * summary["before_merge"]["accuracy/local_mean"],
        "merged": 100 * summary["final"]["accuracy/merged"],
        "bytes": 100 * summary["counters"]["comm/relative"],
    }


def main() -> None:
    """Run every row over the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    arguments = parser.parse_args()
    print("| | H | local % | merged % | bytes % of all-reduce |\n|---|--:|--:|--:|--:|")
    for name in arguments.only:
        rows = [measure(name, seed) for seed in range(arguments.seeds)]
        cells = [f"{rows[0]['H']:.0f}"]
        for key, digits in (("local", 1), ("merged", 1), ("bytes", 2)):
            values = [row[key] for row in rows]
            spread = (
                f" ± {statistics.stdev(values):.1f}"
                if len(values) > 1 and digits == 1
                else ""
            )
            cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
