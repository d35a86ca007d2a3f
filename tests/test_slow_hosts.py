"""The clock against the Ray engine on hosts whose cables are slow: predicted and measured seconds.

The kernel lets a cable carry a stated number of bytes a second; everything else is a run as a user
launches it, one node to a host.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, cluster

pytestmark = [pytest.mark.needs("ray", "root"), pytest.mark.soak]

NODES, STEPS, RATE = 4, 10, 2_000_000
SETTINGS: dict[str, Any] = {
    "task": "digits", "model": "mlp(hidden=[1000,600])", "nodes": NODES,
    "engine": "ray", "engine.workers": NODES, "engine.placement": "spread", "local_steps": 1,
    "steps": STEPS, "batch": 8,
    "threads": 1, "eval_every": STEPS, "checkpoint_every": STEPS, "log_every": 1,
    "compute": "auto", "network": f"uniform(latency_s=100us,bandwidth_Bps={RATE},up_Bps={RATE},"
    f"down_Bps={RATE})",
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "ring": {"topology": "ring", "communication": "constant"},
    "chain": {"topology": "line", "communication": "constant"},
    "star": {"topology": "star", "communication": "constant"},
    "one-peer exponential": {
        "topology": "one_peer_exponential",
        "communication": "constant",
    },
    "global merges": {"algorithm": "local_sgd", "communication": "merges"},
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with cluster(NODES) as made:
        for host in range(1, NODES + 1):
            made.slow(host, RATE)
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_rounds_take_as_long_as_the_clock_says(
    way: str, hosts: Hosts, tmp_path: Path
) -> None:
    """Within 20 %, from the first step to the last but one, between which nobody evaluates."""
    settings = {**SETTINGS, **WAYS[way], "engine.address": hosts.address}
    words = [f"{key}={value}" for key, value in settings.items()]
    launch = [
        sys.executable,
        "-m",
        "decentral",
        "launch",
        *words,
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        hosts.command(0, launch),
        env=hosts.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [
        json.loads(x)
        for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    first, last = (
        next(row for row in rows if row["step"] == step) for step in (1, STEPS - 1)
    )
    predicted, measured = (
        last[key] - first[key] for key in ("time/simulated_s", "time/wall_s")
    )
    print(
        f"\n| {way} | {predicted:.2f} | {measured:.2f} | {predicted / measured - 1:+.1%} |"
    )
    assert predicted == pytest.approx(measured, rel=0.2)
