"""Hosts with addresses of their own: runs across them, and the losses they survive."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, cluster
from test_ray_failures import SETTINGS, events, last_rows
from torch import equal

pytestmark = [pytest.mark.needs("ray", "root"), pytest.mark.timeout(300)]


def words(hosts: Hosts, out: Path, settings: dict[str, Any]) -> list[str]:
    chosen = {**SETTINGS, "address": hosts.address, "placement": "spread", **settings}
    made = [f"{key}={value}" for key, value in chosen.items()]
    return [sys.executable, "-m", "decentral", "launch", *made, "--out", str(out)]


@contextmanager
def launched(hosts: Hosts, out: Path, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Launch a run on the head, and see it end well when the block is done."""
    process = subprocess.Popen(
        hosts.command(0, words(hosts, out, settings)),
        env=hosts.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        said, _ = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said


def wait(what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until something is so, as long as the run goes on."""
    while not what():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def saved(out: Path, step: int) -> Callable[[], bool]:
    return lambda: (out / "checkpoints" / f"step-{step:09d}" / "manifest.json").exists()


def alone(tmp_path: Path, **settings: Any) -> Any:
    import decentral

    here = {"engine": "local", "workers": "auto", "out": str(tmp_path / "alone"), "faults": ()}
    return last_rows(decentral.launch(**{**SETTINGS, **settings, **here}).path)


def test_a_run_across_hosts_survives_the_loss_of_one(tmp_path: Path) -> None:
    """The host loses its power while the run stands still, and the other one takes its nodes."""
    out = tmp_path / "run"
    with (
        cluster(hosts=2) as hosts,
        launched(hosts, out, faults=["stall(worker=1,step=35)"]) as process,
    ):
        wait(saved(out, 30), process)
        env = json.loads((out / "env.json").read_text())
        assert env["workers"] == [hosts.ip(1), hosts.ip(2)]
        hosts.kill(2)
    (failure,) = events(out, "failure")
    assert (failure["workers"], failure["hosts"]) == ([1], [env["workers"][1]])
    assert json.loads((out / "env.json").read_text())["hosts"] == [env["workers"][0]]
    assert equal(last_rows(out), alone(tmp_path))
