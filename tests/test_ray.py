"""The Ray engine as a user meets it: the same run on actors, from one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import descendants

from decentral.cli import run

pytestmark = [pytest.mark.needs("ray"), pytest.mark.hosts]

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
    out: Path, *words: str, seen: Callable[[int], None] | None = None
) -> tuple[dict[str, Any], str]:
    """Launch a run as a user would; return its summary and what was said.

    Once it has a checkpoint after the first, its process number is ``seen``.
    """
    command = [sys.executable, "-m", "decentral", "launch", *SETTINGS.split(), *words]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if seen:
        while not list(out.glob("checkpoints/step-*[1-9]*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        seen(process.pid)
    said, errors = process.communicate(timeout=110)
    assert process.returncode == 0, errors
    return json.loads((out / "summary.json").read_text()), said + errors


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process that the others are compared with."""
    out = tmp_path_factory.mktemp("alone") / "run"
    words = [*SETTINGS.split(), "--engine", "local", *METHODS.split()]
    assert run(["launch", *words, "--quiet", "--out", str(out)]) == 0
    return out


def same_model(one: Path, other: Path, rtol: float) -> None:
    ours, theirs = (load_file(out / "merged.safetensors") for out in (one, other))
    for name, value in ours.items():
        difference = (value - theirs[name]).abs().max()
        assert difference <= rtol * value.abs().max(), name


def listening(pids: Collection[int]) -> dict[str, list[str]]:
    """Return the addresses at which processes listen for TCP, by their names."""
    owners: dict[str, str] = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    owners[os.readlink(handle)] = name
    found: dict[str, list[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and (name := owners.get(f"socket:[{words[9]}]")):
                # In words of four bytes, each in the byte order of the machine.
                digits = words[1].partition(":")[0]
                places = range(0, len(digits), 8)
                parts = [int(digits[k : k + 8], 16) for k in places]
                address = b"".join(part.to_bytes(4, sys.byteorder) for part in parts)
                found.setdefault(name, []).append(str(ip_address(address)))
    return found


def is_loopback(address: str) -> bool:
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


@pytest.mark.timeout(240)
def test_two_workers_end_where_one_process_ends(alone: Path, tmp_path: Path) -> None:
    """On the way, nothing of it can be reached from another machine."""
    ports: dict[str, list[str]] = {}
    summary, said = launched(
        tmp_path / "run", "--engine", "ray", "--workers", "2", *METHODS.split(),
        seen=lambda pid: ports.update(listening([pid, *descendants(pid)])),
    )  # fmt: skip
    # Drivers listen for workers' calls, and workers for the driver's and each other's.
    assert {"raylet", "gcs_server"} < ports.keys()
    assert sum(len(found) for name, found in ports.items() if "Actor" in name) >= 3
    away = {
        name: [x for x in found if not is_loopback(x)] for name, found in ports.items()
    }
    assert not any(away.values()), away
    expected = json.loads((alone / "summary.json").read_text())
    told = " ".join(said.split())
    assert "2 on Ray, 1 host; dashboard http://127.0.0.1:" in told
    assert "(its token: `ray get-auth-token`)" in told
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
