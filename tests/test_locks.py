"""One writer per folder: whoever comes second is told, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny_run

import decentral.cli
from decentral import api
from decentral.errors import ConfigError, RunError
from decentral.run import lock
from decentral.run.checkpoint import Draft
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
    """Return everything that a folder holds, and when it was written.

    Of a lock not the time, which is a sign of life.
    """
    found: dict[str, tuple[int, bytes]] = {}
    for path in folder.rglob("*"):
        when = 0 if path.name == NAME else path.stat().st_mtime_ns
        content = b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = (when, content)
    return found


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


# --- hosts that a lock of the system does not reach -----------------------------------------------

#: Whoever wrote last, on another host, with a lock that this host knows nothing of.
ELSEWHERE = {
    "host": "elsewhere", "pid": 7, "since": "2026-01-01T00:00:00+00:00", "started": "1",
    "boot": "another", "machine": "another", "space": "another", "token": "f",
}  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "SILENCE_S", 0.4)


def left(folder: Path, **changes: str | int | None) -> Path:
    """Leave a lock's file as a holder on another host does."""
    file = folder / NAME
    file.write_text(json.dumps(ELSEWHERE | changes))
    return file


@pytest.mark.usefixtures("hurried")
def test_a_holder_on_another_host_is_known_by_its_signs_of_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ended = left(tmp_path), threading.Event()

    def live() -> None:
        while not ended.wait(0.02):
            os.utime(file)

    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(ConfigError, match="in use: process 7 on elsewhere"):
            WriterLock(tmp_path)
    finally:
        ended.set()
        other.join()
    assert "process 7 on elsewhere, since" in capsys.readouterr().err
    assert json.loads(file.read_text()) == ELSEWHERE
    with WriterLock(tmp_path):  # now it is silent
        assert json.loads(file.read_text())["pid"] == os.getpid()


def gone(folder: Path, **changes: str | int | None) -> bool:
    """Whether a holder that wrote a moment ago is known to have ended, without a wait."""
    left(folder, **changes)
    began_s = time.monotonic()
    with WriterLock(folder):
        return time.monotonic() - began_s < lock.SILENCE_S / 2


def test_what_ran_before_a_reboot_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENCE_S", 2.0)
    with WriterLock(tmp_path) as held:
        own = dict(held.holder)
    found, here = lock.machine(), {"host": own["host"], "machine": "this"}
    monkeypatch.setattr(lock, "machine", lambda: {**found, "machine": "this"})
    assert gone(tmp_path, **here)
    assert gone(tmp_path, boot=own["boot"], space="a container")
    # An image may give its machine number to many hosts.
    assert not gone(tmp_path, machine="this")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("runs", [True, False])
def test_without_locks_of_the_system_a_process_of_this_host_is_asked_for(
    runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.WriterLock, "_lock", lambda self, handle: False)
    first = WriterLock(tmp_path)
    if not runs:  # the number was given to another one since
        first.released.set()
        left(tmp_path, **{**first.holder, "started": "0"})
        with WriterLock(tmp_path) as second:
            assert second.holder["pid"] == os.getpid()
            assert second.holder["started"] != "0"
        return
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
        WriterLock(tmp_path)
    first.release()


@pytest.mark.usefixtures("hurried")
def test_whoever_was_stopped_and_replaced_writes_no_more(tmp_path: Path) -> None:
    """Its first write raises; the file of the other one stays."""
    folder = RunFolder.claim(tmp_path)
    folder.event("start", 0)
    assert folder.lock is not None
    left(tmp_path)
    time.sleep(lock.SILENCE_S)
    for write in (
        lambda: folder.event("later", 1),
        lambda: folder.write("summary.json", "{}"),
        lambda: Draft(folder, 1),
    ):
        with pytest.raises(RunError, match=r"elsewhere, .* writes into it by now"):
            write()
    with folder:
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "events.jsonl"]
    assert json.loads((tmp_path / NAME).read_text()) == ELSEWHERE


def test_signs_of_life_are_given_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    held = WriterLock(tmp_path)
    os.utime(tmp_path / NAME, (0, 0))
    deadline = time.monotonic() + 5
    while (tmp_path / NAME).stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / NAME).stat().st_mtime > 0
    released = held.released
    del held  # nobody holds it any more, so that its thread must not, either
    assert released.wait(5)
    assert not (tmp_path / NAME).exists()
