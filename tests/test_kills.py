"""Runs whose process is killed, or asked to stop, at a moment of nobody's choosing.

A few here; fifty in test_soak.py.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decentral import api
from decentral.report.reader import read_run

SETTINGS = [
    "task=quadratic", "nodes=4", "steps=400", "checkpoint_every=3", "log_every=1", "threads=1",
]  # fmt: skip


def begun(folder: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own and wait for its first checkpoint."""
    command = [sys.executable, "-m", "decentral", "launch", *SETTINGS, "-q", "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not any((folder / "checkpoints").glob("step-*")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    settings = dict(text.split("=") for text in SETTINGS)
    api.launch(**settings, out=str(folder))
    return (folder / "merged.safetensors").read_bytes()


@pytest.mark.parametrize("attempt", range(2))
def test_kill_9_leaves_a_readable_run_that_goes_on_to_the_same_bits(
    attempt: int, tmp_path: Path, undisturbed: bytes
) -> None:
    folder = tmp_path / "run"
    process = begun(folder)
    time.sleep(random.Random(attempt).uniform(0, 0.4))
    process.kill()
    process.communicate()
    assert read_run(folder).metrics
    if not (folder / "summary.json").exists():
        api.resume(folder)
    assert (folder / "merged.safetensors").read_bytes() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, undisturbed: bytes
) -> None:
    folder = tmp_path / "run"
    process = begun(folder)
    process.send_signal(number)
    said = process.communicate()[1].decode()
    if process.returncode == 0:
        return  # the run was faster
    assert process.returncode == 1
    assert f"Go on with `decentral resume {folder}`" in said
    assert "Traceback" not in said
    api.resume(folder)
    assert (folder / "merged.safetensors").read_bytes() == undisturbed
