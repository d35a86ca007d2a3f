"""The Ray engine as a user meets it: the same run on actors, from one command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.needs("ray")

SETTINGS = (
    "--topology ring --schedule late --nodes 6 --data 4200 --local-steps 2 task=digits "
    "model=mlp(hidden=[8]) dtype=float64 mixing=ordered replicas=vmap checkpoint_every=10 "
    "eval_every=20 threads=1"
)
#: Local methods together, each in its phase.
METHODS = (
    "optimizer=muon(grad_power=1.1) batch=late_switch(at=60%,from=8,to=16) sam=0.05 sam.start=75% "
    "label_noise=0.1 label_noise.stop=20% adversarial=0.05 adversarial.start=40% "
    "adversarial.stop=60%"
)


def launched(
    out: Path, *words: str, settings: str = SETTINGS
) -> tuple[dict[str, Any], str]:
    """Launch a run as a user would; return its summary and what was said."""
    command = [sys.executable, "-m", "decentral", "launch", *settings.split(), *words]
    done = subprocess.run(
        [*command, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "summary.json").read_text()), done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process that the others are compared with."""
    out = tmp_path_factory.mktemp("alone") / "run"
    launched(out, "--engine", "local", *METHODS.split())
    return out


def same_model(one: Path, other: Path, rtol: float) -> None:
    ours, theirs = (load_file(out / "merged.safetensors") for out in (one, other))
    for name, value in ours.items():
        difference = (value - theirs[name]).abs().max()
        assert difference <= rtol * value.abs().max(), name


@pytest.mark.timeout(240)
def test_two_workers_end_where_one_process_ends(alone: Path, tmp_path: Path) -> None:
    summary, said = launched(
        tmp_path / "run", "--engine", "ray", "--workers", "2", *METHODS.split()
    )
    expected = json.loads((alone / "summary.json").read_text())
    assert "2 on Ray, 1 host; dashboard http://127.0.0.1:" in " ".join(said.split())
    same_model(alone, tmp_path / "run", 1e-9)
    for key in ("accuracy/local_mean", "accuracy/merged"):
        assert summary["final"][key] == pytest.approx(expected["final"][key], abs=1e-12)
        assert summary["before_merge"][key] == pytest.approx(
            expected["before_merge"][key]
        )
    assert summary["samples"] == expected["samples"]
    assert summary["samples"] == {"per_node": 700, "all_nodes": 4200}
    assert summary["steps"] == expected["steps"]
    for key in ("bytes", "messages", "rounds"):
        assert summary["counters"][f"comm/{key}"] == expected["counters"][f"comm/{key}"]
    assert 0 < summary["counters"]["comm/wire_bytes"] < summary["counters"]["comm/bytes"]
