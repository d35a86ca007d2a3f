"""What only a slip can mean is refused before anything is built; so is a plug-in that exits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import decentral.cli
from decentral import limits
from decentral.config import make_config
from decentral.engines.worker import describe_error
from decentral.errors import ConfigError
from decentral.loop.preparing import prepare
from decentral.run.trackers import Trackers

SMALL = "launch --task quadratic steps=4"


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("steps=1e18", "at most 1,000,000,000,000"),
        ("steps=1e12", "are free; give fewer"),
        ("nodes=1e9", "at most 1,000,000."),
        ("local_steps=1e18", "at most 1,000,000,000,000"),
        ("eval_every=1e18", "at most 1,000,000,000,000"),
        ("log_every=1e18", "at most 1,000,000,000,000"),
        ("checkpoint_every=1e18", "at most 1,000,000,000,000"),
        ("eval_samples=1e18", "at most 1,000,000,000,000"),
        ("batch=1e9", "at most 100,000,000"),
        ("batch=stages(at=[50%],sizes=[8,1000000000])", "at most 100,000,000"),
        ("threads=100000", f"there are {os.cpu_count()} cores"),
        ("engine=ray(workers=2) threads=100000", f"there are {os.cpu_count()} cores"),
    ],
)
def test_what_only_a_slip_can_mean_is_refused(
    words: str,
    limit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    base = SMALL.split()[: -1 if words.startswith("steps=") else None]
    assert decentral.cli.run([*base, *words.split()]) == 2
    said = capsys.readouterr().err
    assert limit in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_limits_are_above_every_real_use() -> None:
    cores = os.cpu_count() or 1
    limits.check_threads(limits.THREADS_PER_CORE * cores)
    limits.check_threads(64, cores=16.0)  # of the hosts of a cluster, not of this machine
    with pytest.raises(ConfigError, match="at most 4 per core, 64"):
        limits.check_threads(65, cores=16.0)
    setup = prepare(make_config({"task": "quadratic", "steps": 10**5, "nodes": 2}))
    assert setup.timeline.steps == 10**5
    assert (
        make_config({"nodes": limits.NODES, "local_steps": limits.COUNT}).nodes
        == limits.NODES
    )


@pytest.mark.parametrize("word", ["threads=100000", "steps=1e18", "batch=1e9", "nodes=0"])
def test_a_slip_is_refused_before_anything_heavy_is_loaded(word: str) -> None:
    script = f"""
        import sys
        from decentral.cli import run
        assert run(["launch", "{word}"]) == 2
        assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- exit() ---------------------------------------------------------------------------------------

EXITS = """
import sys
import networkx as nx
from decentral import plugin

def star(n):
    sys.exit()

def late(progress, feedback):
    raise SystemExit(0)

@plugin("claim", paper="nobody", says="It ends.", expect=())
def ending(lab, seed):
    "End."
    exit()
"""


@pytest.fixture
def exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "e.py").write_text(EXITS)
    (tmp_path / "gone.py").write_text("exit(0)\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize(
    ("words", "status", "names"),
    [
        (f"{SMALL} topology=e.py:star", 2, ["topology 'star'", "e.py:7 called exit()"]),
        (
            f"{SMALL} schedule=e.py:late",
            2,
            ["communication 'late'", "e.py:10 called exit(0)"],
        ),
        (
            f"{SMALL} topology=gone.py:ring",
            2,
            ["plug-in file gone.py", "gone.py:1 called exit(0)"],
        ),
        (
            "sweep task=quadratic steps=4 seed=0,1 topology=e.py:star",
            1,
            ["2 runs of 2 failed"],
        ),
        ("reproduce e.py:ending --seeds 0 --jobs 1", 1, ["ending could not be run"]),
        ("list topologies gone.py:ring", 2, ["gone.py:1 called exit(0)"]),
    ],
)
def test_a_plugin_that_calls_exit_is_an_error_that_names_it(
    words: str, status: int, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert decentral.cli.run(words.split()) == status
    said = capsys.readouterr().err
    for name in names:
        assert name in said
    assert len(said.splitlines()) == 1


def test_no_call_of_exit_ends_a_command_with_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(kind: str | None, name: str | None, nodes: int | None) -> None:
        raise SystemExit

    monkeypatch.setattr("decentral.cli.listing.show", leave)
    assert decentral.cli.run(["list"]) == 1
    assert "test_limits.py:" in capsys.readouterr().err


def test_an_exit_in_a_worker_or_a_tracker_is_told() -> None:
    with pytest.raises(SystemExit) as caught:
        Leaving().close()
    assert "called exit(0)" in str(describe_error(caught.value, make_config({}))["error"])
    said: list[str] = []
    trackers = Trackers((), said.append)
    trackers.sinks["mine"] = Leaving()
    trackers.record({"step": 1})
    assert len(said) == 1
    assert "tracker mine failed" in said[0]


class Leaving:
    """A sink that ends the program."""

    def log(self, numbers: object, step: int) -> None:
        raise SystemExit(0)

    def close(self) -> None:
        raise SystemExit(0)
