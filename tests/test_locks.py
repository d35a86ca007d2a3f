"""One writer per folder: whoever comes second is told, and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny_run

import decentral.cli
from decentral import api
from decentral.errors import ConfigError
from decentral.run.folder import RunFolder
from decentral.run.lock import NAME, WriterLock

#: Takes the lock of a folder, says so, and waits until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from decentral.run.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""

#: The same, with a child that was forked meanwhile and outlives it.
#: Says "held" once the child has come out of its fork: only then has it let go of the lock.
FORK = HOLD.replace(
    "print",
    """import os
out, into = os.pipe()
if os.fork() == 0:
    os.close(1)
    os.write(into, b"x")
    time.sleep(5)
    os._exit(0)
os.read(out, 1)
print""",
)

Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """What lets another process write into a folder, until the test kills it or ends."""
    holders: list[subprocess.Popen[str]] = []

    def start(folder: Path, code: str = HOLD) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(folder)]
        holders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout is not None
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything that a folder holds, and when it was written."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes()
        )
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        "resume FOLDER",
        "launch task=quadratic nodes=4 steps=2 --out FOLDER",
        "sweep task=quadratic nodes=4 steps=2 seed=0,1 --out FOLDER",
        "reproduce single-merge --seeds 0 --jobs 1 --out FOLDER",
    ],
)
def test_the_second_writer_is_refused_and_changes_nothing(
    words: str, tmp_path: Path, hold: Hold, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with tiny_run(folder, steps=2).folder:
        pass  # it ended before its first checkpoint
    holder = hold(folder)
    before = tree(folder)
    assert decentral.cli.run(words.replace("FOLDER", str(folder)).split()) == 2
    said = capsys.readouterr().err
    assert f"{folder} is in use: process {holder.pid} on " in said
    assert len(said.splitlines()) == 1
    assert tree(folder) == before


def test_readers_need_no_lock(tmp_path: Path, hold: Hold) -> None:
    folder = tmp_path / "run"
    run = api.launch(task="quadratic", nodes=4, steps=2, out=str(folder))
    hold(folder)
    assert run.report().exists()
    assert run.analyze(pairs=1, points=3)["run"] == "run"


@pytest.mark.parametrize("code", [HOLD, FORK], ids=["alone", "with a forked child"])
def test_the_lock_of_a_killed_process_does_not_block(
    code: str, tmp_path: Path, hold: Hold
) -> None:
    holder = hold(tmp_path, code)
    with pytest.raises(ConfigError, match="is in use"):
        WriterLock(tmp_path)
    holder.kill()
    holder.wait()
    assert (tmp_path / NAME).exists()
    with WriterLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_lets_go_of_its_folder_however_it_ends(tmp_path: Path) -> None:
    def unplug(row: object) -> None:
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        tiny_run(tmp_path / "run", steps=2).run(unplug)
    again = api.restart(tmp_path / "run")
    with pytest.raises(ConfigError, match="is in use"):
        api.restart(tmp_path / "run")
    again.run(lambda row: None)
    assert not (tmp_path / "run" / NAME).exists()


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a number of nodes"):
        api.begin_run(
            decentral.config.make_config({"topology": "hypercube", "nodes": 3}),
            tmp_path / "a",
        )
    assert not (tmp_path / "a").exists()


def test_runs_without_a_name_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter("aab")
    monkeypatch.setattr(
        "decentral.run.folder.next_name", lambda parent, _: parent / next(names)
    )
    first, second = RunFolder.number(tmp_path, "run"), RunFolder.number(tmp_path, "run")
    assert (first.path.name, second.path.name) == ("a", "b")
