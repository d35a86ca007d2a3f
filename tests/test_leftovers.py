"""Nothing is left behind: processes and folders end with the process that made them, however that
ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import descendants, lives

from decentral.process import OwnFolder

#: Seconds within which all that a process had started is gone.
SOON_S = 10.0


def soon(what: Callable[[], bool]) -> bool:
    """Whether something becomes so, soon."""
    deadline = time.monotonic() + SOON_S
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@contextmanager
def started(command: list[str], **env: str) -> Generator[subprocess.Popen[str]]:
    """Start a process, and leave nothing of it behind, whatever the test finds."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


# --- folders --------------------------------------------------------------------------------------

MAKES = """
import sys, time
from pathlib import Path
from decentral.process import OwnFolder
folder = OwnFolder("own-", Path(sys.argv[1]))
(folder.path / "tmp").mkdir()
print("made", flush=True)
if sys.argv[2] == "stays":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["kill", "terminate", "ends"])
def test_a_folder_goes_with_the_process_that_made_it(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKES, str(tmp_path)]
    with started([*command, "ends" if how == "ends" else "stays"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        if how != "ends":
            assert list(tmp_path.iterdir())
            getattr(process, how)()
        process.wait()
        assert soon(lambda: not list(tmp_path.iterdir()))


def test_a_folder_is_this_users_alone_and_goes_with_its_block(tmp_path: Path) -> None:
    with OwnFolder("own-", tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("content")
    assert not folder.exists()


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="only Linux tells who uses it"
)
def test_whoever_still_uses_the_folder_of_a_cluster_is_killed(tmp_path: Path) -> None:
    """One has a file of it open, one makes its temporary files there; the third does not."""
    made = OwnFolder("own-", tmp_path, kills=True)
    words = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with (made.path / "log").open("w") as log:
        users = [
            subprocess.Popen(words, stdout=log),
            subprocess.Popen(words, env={**os.environ, "TMPDIR": f"{made.path}/tmp"}),
        ]
        bystander = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(tmp_path)})
        try:
            made.close()  # this process has the log open, too
            assert [user.wait(SOON_S) for user in users] == [-signal.SIGKILL] * 2
            assert bystander.poll() is None
        finally:
            for process in (*users, bystander):
                process.kill()
                process.wait()
    assert not made.path.exists()


# --- clusters -------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files, in which all that is left would be found.

    Short: paths of sockets are.
    """
    folder = Path(tempfile.mkdtemp(prefix="dl-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def elsewhere() -> set[Path]:
    """Return what there is where Ray keeps its sessions by default."""
    return {*Path("/tmp/ray").glob("session_*_*")}


def of(pids: Collection[int], sessions: Collection[Path]) -> list[Path]:
    """Return the sessions that these processes began; other tests have their own."""
    return [path for path in sessions if int(path.name.rpartition("_")[2]) in pids]


#: Ray is imported before the environment is set, as in a user's own script.
STARTS = """
import time, ray
from types import SimpleNamespace
from decentral.config.engine import Engine
from decentral.engines.ray import cluster
cluster._own = lambda engine: {"address": "local", "include_dashboard": False}
made = cluster.connect(SimpleNamespace(engine=Engine(name="ray")))
print(made.folder.path, flush=True)
time.sleep(600)
"""


@pytest.mark.hosts
@pytest.mark.needs("ray")
def test_a_cluster_ends_with_a_driver_that_is_killed(short: Path) -> None:
    there = elsewhere()
    with started([sys.executable, "-c", STARTS], TMPDIR=str(short)) as driver:
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip())
        assert folder.parent == short
        assert list(folder.glob("ray/session_*/sockets/raylet"))
        children = descendants(driver.pid)
        assert len(children) > 3
        driver.kill()
        assert soon(lambda: not any(map(lives, children)))
        assert soon(lambda: not list(short.iterdir()))
    assert not of([driver.pid, *children], elsewhere() - there)


@pytest.mark.needs("ray")
@pytest.mark.parametrize("kept", [None, "0" * 64])
def test_the_token_is_for_its_owners_eyes(
    kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decentral.engines.ray.cluster import protect_token

    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    if kept:
        file.parent.mkdir()
        file.write_text(kept)  # as Ray makes it
        file.chmod(0o644)
    protect_token()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text()) == 64
    assert kept in (None, file.read_text())
    assert list(file.parent.iterdir()) == [file]


def test_no_token_is_made_where_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decentral.engines.ray.cluster import protect_token

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    protect_token()
    assert not list(tmp_path.iterdir())


# --- every command that starts processes ----------------------------------------------------------

OWN = "def mine(n):\n    import networkx as nx\n    return nx.cycle_graph(n)\n"
RUN = "nodes=4 steps=100000 threads=1 checkpoint_every=100 --engine ray --workers 2 -q"
COMMANDS = {
    "launch": f"launch task=quadratic topology=own.py:mine {RUN} --out out",
    "sweep": f"sweep task=quadratic topology=own.py:mine {RUN} seed=0,1 --out out",
    "reproduce": "reproduce single-merge --seeds 0,1 --jobs 2 --out out",
}


@pytest.mark.soak
@pytest.mark.needs("ray")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_leaves_no_process_and_no_file(
    what: str, number: signal.Signals, short: Path, tmp_path: Path
) -> None:
    """Neither where it is stopped or killed in the middle, nor below it."""
    (tmp_path / "own.py").write_text(OWN)
    there = elsewhere()
    words = [sys.executable, "-m", "decentral", *COMMANDS[what].split()]
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), *words]
    # What torch keeps there is meant to stay.
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    with started(command, TMPDIR=str(short), **compiled) as process:
        while not list(tmp_path.glob("out/**/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.1)
        children = descendants(process.pid)
        assert len(children) > 1
        process.send_signal(number)
        process.wait(60)
        assert soon(lambda: not any(map(lives, children)))
        assert soon(lambda: not list(short.iterdir())), list(short.rglob("*"))
    assert not of([process.pid, *children], elsewhere() - there)
