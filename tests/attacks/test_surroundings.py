"""What surrounds a command: limits, clocks, links, disks, descriptors, signals, other commands.

Each is done in a process that is forked for it, on a copy of a whole run, one that stopped, or on
nothing: it goes through, or is refused in one line.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from attack import CHANGE, Hang, Outcome, Tally, limited

import decentral.cli

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

SMALL = ["task=quadratic", "nodes=4", "steps=6", "checkpoint_every=2", "threads=1", "-q"]
LAUNCH = ["launch", *SMALL, "--out", "run"]
AGAIN = [*LAUNCH, "--resume"]
RESUME = ["resume", "run", "-q"]
READ = ["report", "run"]
EXPORT = ["export", "run", "--out", "model"]

#: Seconds after which a command hangs, however busy the machine is.
PATIENCE_S = 120


@dataclass(frozen=True)
class Surrounding:
    """What is done before a command, which run there is, and how the command may end."""

    name: str
    words: Sequence[str]
    prepare: Callable[[], object] = lambda: None
    before: str = ""  # a run of the bench
    may: Sequence[int] = (0, 1, 2)
    needs_root: bool = False
    mute: bool = False  # it has nowhere to say what is wrong


# --- what surrounds a command ---------------------------------------------------------------------


def env(**values: str | None) -> Callable[[], None]:
    """Return what sets variables of the environment, and removes those that are None."""

    def change() -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return change


def limit(what: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (most, most))


def link(name: str, to: str) -> Callable[[], None]:
    return lambda: Path(name).symlink_to(to)


def clock(change: Callable[[float], float]) -> Callable[[], None]:
    """Return what replaces the wall clock, by the true one."""
    true = time.time

    def put() -> None:
        time.time = lambda: change(true())

    return put


def backwards() -> None:
    """Let the clock go back by an hour with every look at it."""
    true, looks = time.time(), iter(range(1 << 60))
    time.time = lambda: true - 3600.0 * next(looks)


def mounted(folder: str, options: str) -> None:
    """Mount a small disk, seen by this process alone."""
    Path(folder).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def disk(options: str) -> Callable[[], None]:
    def change() -> None:
        alone()
        mounted("run", options)

    return change


def read_only() -> None:
    alone()
    for words in (["--bind", "run", "run"], ["-o", "remount,ro,bind", "run"]):
        subprocess.run(["mount", *words], check=True)


def alone() -> None:
    """Let what is mounted be this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def closed(*handles: int) -> Callable[[], object]:
    return lambda: [os.close(handle) for handle in handles]


def full(handle: int) -> Callable[[], object]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), handle)


def broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def removed() -> None:
    """Stand in a folder that is no more."""
    Path("gone").mkdir()
    os.chdir("gone")
    os.rmdir("../gone")


def after(number: int, seconds: float, times: int = 1) -> Callable[[], None]:
    """Return what sends this process a signal, in a moment."""

    def send() -> None:
        for _ in range(times):
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    return lambda: threading.Thread(target=send, daemon=True).start()


def beside(words: Sequence[str]) -> Callable[[], None]:
    """Return what starts the same command in another process, at once."""

    def start() -> None:
        if os.fork() == 0:
            try:
                decentral.cli.run(list(words))
            finally:
                os._exit(0)

    return start


def put(name: str, content: bytes = b"") -> Callable[[], None]:
    def write() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)

    return write


def aged(seconds: float) -> Callable[[], None]:
    """Return what lets all files of the run be of another time."""

    def change() -> None:
        when = time.time() + seconds
        for path in Path("run").rglob("*"):
            os.utime(path, (when, when), follow_symlinks=False)

    return change


#: A run that is still under way when a signal comes.
LONG = [
    "launch",
    "task=quadratic",
    "nodes=4",
    "steps=1000000",
    "threads=1",
    "-q",
    "--out",
    "run",
]
SURROUNDINGS = [
    # environment variables
    Surrounding("no home", LAUNCH, env(HOME=None), may=[0]),
    Surrounding("a home that is not there", LAUNCH, env(HOME="/nowhere"), may=[0]),
    Surrounding("a home that is a file", LAUNCH, env(HOME="/dev/null"), may=[0]),
    Surrounding("a relative home", LAUNCH, env(HOME="here"), may=[0]),
    Surrounding("state in a file", LAUNCH, env(XDG_STATE_HOME="/dev/null"), may=[0]),
    Surrounding("no folder for temporary files", READ, env(TMPDIR="/nowhere"), "whole", [0]),
    Surrounding("columns of another world", ["list", "topologies"], env(COLUMNS="-7"), may=[0]),
    Surrounding("no number of columns", ["list"], env(COLUMNS="many"), may=[0]),
    Surrounding("a zone that is none", LAUNCH, env(TZ="No/Where"), may=[0]),
    Surrounding("trust that is garbage", RESUME, env(DECENTRAL_TRUST="\x1b[31m/"), "stopped"),
    Surrounding("a backend that is none", READ, env(MPLBACKEND="nonsense"), "whole", [0]),
    # limits of a process
    Surrounding("few open files", LAUNCH, limit(resource.RLIMIT_NOFILE, 24)),
    Surrounding("no open files", LAUNCH, limit(resource.RLIMIT_NOFILE, 4)),
    Surrounding("short files", LAUNCH, limit(resource.RLIMIT_FSIZE, 3000), may=[1]),
    Surrounding("a file mode of nothing", LAUNCH, lambda: os.umask(0o777), may=[0, 1, 2]),
    # clocks
    Surrounding("a clock that goes back", LAUNCH, backwards, may=[0]),
    Surrounding("a clock of 1970", LAUNCH, clock(lambda now: 0.0), may=[0]),
    Surrounding("a clock of 1900", LAUNCH, clock(lambda now: -2.2e9), may=[0]),
    Surrounding("a clock of the year 9000", LAUNCH, clock(lambda now: 2.2e11), may=[0]),
    Surrounding("resumed in 1970", RESUME, clock(lambda now: 0.0), "stopped", [0]),
    Surrounding("files of next year", AGAIN, aged(3e7), "stopped", [0]),
    Surrounding("files of 1970", AGAIN, aged(-1.7e9), "stopped", [0]),
    # links
    Surrounding("a link to nothing", LAUNCH, link("run", "nowhere")),
    Surrounding("a link to itself", LAUNCH, link("run", "run"), may=[1, 2]),
    Surrounding("a link to a file", LAUNCH, lambda: (put("x")(), link("run", "x")()), may=[1, 2]),
    Surrounding("a parent that is a file", ["launch", *SMALL, "--out", "x/run"], put("x"), may=[2]),
    Surrounding("a run behind a link", ["resume", "r", "-q"], link("r", "run"), "stopped", [0]),
    # disks
    Surrounding("a full disk", LAUNCH, disk("size=8k"), may=[1, 2], needs_root=True),
    Surrounding("a disk without inodes", LAUNCH, disk("nr_inodes=6"), may=[1, 2], needs_root=True),
    Surrounding("read only: launch", LAUNCH, disk("ro"), may=[1, 2], needs_root=True),
    *(
        Surrounding(f"read only: {words[0]}", words, read_only, "whole", needs_root=True)
        for words in (READ, EXPORT, ["check", "run"], ["merge", "run", "--rule", "uniform"],
                      CHANGE, ["compare", "run", "run"])
    ),
    Surrounding("read only: resume", RESUME, read_only, "stopped", [1, 2], needs_root=True),
    # descriptors
    Surrounding("stdin closed", LAUNCH, closed(0), may=[0]),
    Surrounding("stdout closed", ["list", "topologies"], closed(1)),
    Surrounding("stderr closed", ["launch", "nodes=x"], closed(2), may=[2], mute=True),
    Surrounding("all closed", LAUNCH, closed(0, 1, 2), may=[0]),
    Surrounding("stdout full", ["list", "topologies"], full(1)),
    Surrounding("stderr full", ["launch", "nodes=x"], full(2), may=[1, 2], mute=True),
    Surrounding("nobody reads", ["list", "topologies"], broken_pipe),
    Surrounding("nobody reads a check", ["check", "run"], broken_pipe, "whole"),
    # where it stands, and names
    Surrounding("a folder that is no more", LAUNCH, removed, may=[1, 2]),
    Surrounding("nothing to read where it stands", ["list"], removed, may=[0]),
    Surrounding("a name that is no text", ["launch", *SMALL, "--out", "r\udcff"]),
    Surrounding("a name of lines", ["launch", *SMALL, "--out", "r\nerror: run"]),
    Surrounding("an endless name", ["launch", *SMALL, "--out", "r" * 300], may=[1, 2]),
    Surrounding("a name of nothing", ["launch", *SMALL, "--out", ""], may=[0]),
    Surrounding("a run within a run", ["launch", *SMALL, "--out", "run/run"], before="whole"),
    Surrounding("foreign files", LAUNCH, put("run/thesis.tex"), may=[0]),
    # signals
    Surrounding("SIGHUP", LONG, after(signal.SIGHUP, 1.0), may=[1, -signal.SIGHUP]),
    Surrounding("SIGTERM, three times", LONG, after(signal.SIGTERM, 0.4, 3), may=[1, -15]),
    Surrounding("SIGINT, five times", LONG, after(signal.SIGINT, 0.3, 5), may=[1, -2]),
    Surrounding("SIGPIPE", LAUNCH, after(signal.SIGPIPE, 0.1), may=[0, -signal.SIGPIPE]),
    Surrounding("SIGWINCH, often", LAUNCH, after(signal.SIGWINCH, 0.005, 50), may=[0]),
    # two commands at once
    Surrounding("two launches", LAUNCH, beside(LAUNCH)),
    Surrounding("two that start or resume", AGAIN, beside(AGAIN), "stopped"),
    Surrounding("two exports", EXPORT, beside(EXPORT), "whole"),
    Surrounding("two reports", READ, beside(READ), "whole", [0]),
    Surrounding("a report of what is resumed", READ, beside(RESUME), "stopped", [0, 1]),
    Surrounding("a change and a merge", ["merge", "run", "--rule", "uniform"],
                beside(CHANGE), "whole"),
]  # fmt: skip


# --- tried ----------------------------------------------------------------------------------------


def tried(one: Surrounding) -> Outcome:
    """Do a command in surroundings of its own."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setpgid(0, 0)
            # What is started in the background by a shell ignores it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for name, handle in (("out.txt", 1), ("err.txt", 2)):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
            one.prepare()
            own_streams()
            status = decentral.cli.run(list(one.words))
            status = flushed(status)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)
    try:
        with limited(PATIENCE_S):
            _, state = os.waitpid(child, 0)
            status = os.waitstatus_to_exitcode(state)
    except Hang:
        status = None
    finally:
        end_group(child)
    seconds = time.perf_counter() - began
    if status is None:
        os.waitpid(child, 0)
        return Outcome(-1, "", "hang", seconds)
    out, said = (
        Path(name).read_text(errors="replace") for name in ("out.txt", "err.txt")
    )
    return Outcome(status, out, said, seconds)


def flushed(status: int) -> int:
    """Return the status with which Python ends, once what was printed is written."""
    try:
        sys.stdout.flush()
    except OSError:
        return status or 120  # as Python itself does
    return status


def own_streams() -> None:
    """Print to this process's own descriptors, as Python begins: pytest has put others there."""
    for name, handle in (("stdout", 1), ("stderr", 2)):
        try:
            setattr(sys, name, os.fdopen(handle, "w", closefd=False))
        except OSError:  # closed
            setattr(sys, name, None)


def end_group(leader: int) -> None:
    """Wait for whoever was started beside; kill who does not end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(leader, signal.SIGKILL)


def fault_of(one: Surrounding, found: Outcome) -> str:
    """Return what is wrong with how a command ended; nothing where it is right."""
    if found.status not in one.may:
        return f"status {found.status}"
    # Whoever is ended by a signal, or has nowhere to say it, says nothing.
    silent = found.fault == "not one line of error" and (one.mute or found.status < 0)
    return "" if silent else found.fault


def stage(folder: Path) -> None:
    """Lay a whole run into a folder, and one that ended on its way."""
    assert decentral.cli.run([*LAUNCH[:-1], str(folder / "whole")]) == 0
    shutil.copytree(folder / "whole", folder / "stopped")
    for name in ("summary.json", "merged.safetensors", "report.html"):
        (folder / "stopped" / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step-000000006")


def try_all(those: Sequence[Surrounding], bench: Path, folder: Path) -> Tally:
    """Try commands, each in its own folder; count what comes out."""
    tally, kept = Tally(), Path.cwd()
    for place, one in enumerate(those):
        if one.needs_root and os.geteuid():
            continue
        inside = folder / str(place)
        inside.mkdir()
        if one.before:
            shutil.copytree(bench / one.before, inside / "run")
        os.chdir(inside)
        try:
            found = tried(one)
        finally:
            os.chdir(kept)
        what = "went through" if found.status == 0 else "refused or ended"
        tally.add(what, one.name, fault_of(one, found), f"{found.status} {found.said}")
    return tally


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surroundings")
    stage(folder)
    return folder


#: Of which the suite tries those that are quick and were faults once.
QUICK = {
    "stdout closed", "stderr closed", "all closed", "a folder that is no more", "no open files",
    "a link to itself", "a name that is no text", "columns of another world",
}  # fmt: skip


def test_some_surroundings_are_survived_or_refused(bench: Path, tmp_path: Path) -> None:
    those = [one for one in SURROUNDINGS if one.name in QUICK]
    assert len(those) == len(QUICK)
    tally = try_all(those, bench, tmp_path)
    assert not tally.faults, "\n".join(tally.faults)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_all_surroundings_are_survived_or_refused(
    bench: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tally = try_all(SURROUNDINGS, bench, tmp_path)
    record_property("counts", str(tally))
    assert not tally.faults, "\n".join(tally.faults)
