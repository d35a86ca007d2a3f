"""Runs whose process is killed, or asked to stop, at a moment of nobody's choosing.

A few here; fifty in test_soak.py. A process of its own takes 3 to 5 s: what differs from its
sibling only by the signal or the moment is for the soak, too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import lives

from decentral import api
from decentral.errors import ConfigError
from decentral.report.reader import read_run
from decentral.run.folder import RunFolder

SETTINGS = [
    "task=quadratic", "nodes=4", "steps=150", "checkpoint_every=3", "log_every=1", "threads=1",
]  # fmt: skip


def begun(folder: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own and wait for its first rows and checkpoints."""
    command = [
        sys.executable,
        "-m",
        "decentral",
        "launch",
        *SETTINGS,
        "-q",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not (folder / "checkpoints" / "step-000000003").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    settings = dict(text.split("=") for text in SETTINGS)
    api.launch(**settings, out=str(folder))
    return (folder / "merged.safetensors").read_bytes()


@pytest.mark.hosts
@pytest.mark.parametrize("attempt", [0, pytest.param(1, marks=pytest.mark.soak)])
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


#: Ctrl-C in a process that goes on is tried in test_messages.py.
SIGINT = pytest.param(signal.SIGINT, marks=pytest.mark.soak)


@pytest.mark.hosts
@pytest.mark.parametrize("number", [signal.SIGTERM, SIGINT])
def test_a_stop_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, undisturbed: bytes
) -> None:
    folder = tmp_path / "run"
    process = begun(folder)
    process.send_signal(number)
    said = process.communicate()[1].decode()
    assert "Traceback" not in said
    if process.returncode:  # else the run was faster
        assert process.returncode == 1
        assert f"Go on with `decentral resume {folder}`" in said
        api.resume(folder)
    assert (folder / "merged.safetensors").read_bytes() == undisturbed


# --- before the first checkpoint ------------------------------------------------------------------

EARLY = {"task": "quadratic", "nodes": 4, "steps": 6, "threads": 1}

#: Writes the named file, and nothing after it.
DIE = """
import os, signal, sys
from decentral import api
from decentral.run.folder import RunFolder
def write(self, name, content, original=RunFolder.write):
    original(self, name, content)
    if name == "config.yaml":
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.write = write
api.launch(task="quadratic", nodes=4, steps=6, threads=1, out=sys.argv[1])
"""


class PowerCut(BaseException):
    """What no handler of a run expects."""


def cut_at(patch: pytest.MonkeyPatch, last: str) -> None:
    """Let a process write files and events up to the ``last`` one."""
    write, event = RunFolder.write, RunFolder.event

    def written(self: RunFolder, name: str, content: str | bytes) -> None:
        write(self, name, content)
        if name == last:
            raise PowerCut

    def announced(self: RunFolder, kind: str, step: int, **details: object) -> None:
        event(self, kind, step, **details)
        if kind == last:
            raise PowerCut

    def never(*given: object) -> None:
        raise PowerCut

    patch.setattr(RunFolder, "write", written)
    patch.setattr(RunFolder, "event", announced)
    patch.setattr("decentral.engines.local.save_checkpoint", never)


def cut_short(folder: Path, last: str) -> None:
    """Leave a run in a folder that has written up to the ``last`` file or event."""
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, last)
        with pytest.raises(PowerCut):
            api.launch(**EARLY, out=str(folder))


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("early") / "run"
    api.launch(**EARLY, out=str(folder))
    return (folder / "merged.safetensors").read_bytes()


@pytest.mark.soak
def test_kill_9_in_the_first_moment_can_be_launched_again(
    tmp_path: Path, early: bytes
) -> None:
    folder = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", DIE, str(folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (folder / "env.json").exists()
    api.launch(**EARLY, out=str(folder))
    assert (folder / "merged.safetensors").read_bytes() == early


@pytest.mark.parametrize(
    "last", ["config.yaml", "data.json", "start", "first checkpoint"]
)
@pytest.mark.parametrize("how", ["launch", "resume"])
def test_a_run_without_a_checkpoint_begins_again(
    how: str, last: str, tmp_path: Path, early: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    cut_short(folder, last)
    again = (
        api.resume(folder) if how == "resume" else api.launch(**EARLY, out=str(folder))
    )
    assert capsys.readouterr().err == (
        f"run folder {folder}: its run ended before the first checkpoint; "
        "it begins again at step 0.\n"
    )
    assert (folder / "merged.safetensors").read_bytes() == early
    assert [row["step"] for row in again.rows] == sorted(
        row["step"] for row in again.rows
    )
    assert len({(row["step"], row.get("phase")) for row in again.rows}) == len(again.rows)


def test_another_configuration_is_not_launched_over_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cut_short(folder, "data.json")
    kept = (folder / "config.yaml").read_bytes()
    with pytest.raises(
        ConfigError, match=r"another configuration \(steps: 6 there, 8 here\)"
    ):
        api.launch(**EARLY | {"steps": 8}, out=str(folder))
    assert (folder / "config.yaml").read_bytes() == kept


# --- children -------------------------------------------------------------------------------------

#: A claim that says which process tries it, and then waits: with the interpreter or, asked by
#: seed 1, in a call into C that keeps the interpreter to itself.
WAITING = """
import ctypes, os, time
from pathlib import Path
from decentral import plugin

@plugin("claim", paper="nobody", says="It waits.", expect=())
def waiting(lab, seed):
    "Wait."
    part = lab.folder / f".pid-{seed}"
    part.write_text(str(os.getpid()))
    part.rename(lab.folder / f"pid-{seed}")
    (ctypes.PyDLL(None).sleep if seed == 1 and os.path.exists("/proc/self") else time.sleep)(600)
"""


@pytest.mark.hosts
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, SIGINT])
def test_processes_that_try_seeds_end_with_their_parent(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "w.py").write_text(WAITING)
    words = ["reproduce", "w.py:waiting", "--jobs", "2", "--seeds", "0,1", "--out", "out"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "decentral", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    files = [tmp_path / "out" / "waiting" / f"pid-{seed}" for seed in (0, 1)]
    while not all(file.exists() for file in files):
        assert parent.poll() is None
        time.sleep(0.02)
    pids = [int(file.read_text()) for file in files]
    assert all(map(lives, pids))
    parent.send_signal(number)
    deadline = time.monotonic() + 10
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [pid for pid in pids if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    parent.communicate()
    assert not left
