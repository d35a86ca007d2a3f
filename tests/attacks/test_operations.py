"""Commands that write, killed at every operation on the file system: given again, they end where
they would have ended undisturbed, and leave nothing else behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from attack import CHANGE, Hang, Tally, limited, quick_folder

import decentral.cli
from decentral.report.pages import write_page

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

SMALL = ["task=quadratic", "nodes=4", "steps=6", "checkpoint_every=2", "threads=1", "-q"]
#: What audit hooks are told of before it changes a folder (PEP 578).
CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
    "os.chmod", "shutil.rmtree", "shutil.move",
}  # fmt: skip
#: Where everything is written, by name; a run's own are compared by what they mean.
MEASURED = {"summary.json", "metrics.jsonl", "events.jsonl", "env.json", "manifest.json"}

#: Seconds after which a command hangs, however busy the machine is.
PATIENCE_S = 120
#: Operations of each command that the suite tries; the soak tries all.
FEW = 2


@dataclass(frozen=True)
class Writing:
    """A command that writes: what is there before, what is said, and said again."""

    before: str  # of the bench, copied to ``run``; empty: nothing
    words: Sequence[str]
    again: Sequence[str]
    made: str  # what it makes
    #: What is in the way may be named instead, and goes by hand.
    new: bool = False


WRITING = {
    "launch": Writing(
        "",
        ["launch", *SMALL, "--out", "run"],
        ["launch", *SMALL, "--out", "run", "--resume"],
        "run",
    ),
    "resume": Writing(
        "stopped",
        ["resume", "run", "-q"],
        ["launch", "run/config.yaml", "--out", "run", "--resume", "-q"],
        "run",
    ),
    "change": Writing(
        "whole",
        CHANGE,
        CHANGE,
        "run",
    ),
    "sweep": Writing(
        "",
        ["sweep", *SMALL, "seed=0,1", "--out", "run"],
        ["sweep", *SMALL, "seed=0,1", "--out", "run"],
        "run",
    ),
    "analyze": Writing(
        "whole",
        ["analyze", "run", "--points", "3", "--pairs", "1", "--samples", "8"],
        ["analyze", "run", "--points", "3", "--pairs", "1", "--samples", "8"],
        "run",
    ),
    "export": Writing(
        "whole",
        ["export", "run", "--out", "model"],
        ["export", "run", "--out", "model"],
        "model",
        new=True,
    ),
}  # fmt: skip


# --- killed at an operation -----------------------------------------------------------------------


def dying(work: Callable[[], object], at: int, within: Path) -> int | None:
    """Do something in a process that is killed before its ``at``-th operation on what lies
    within a folder; return None, or the number of its operations where it ends before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 70
        try:
            count = arm(at, str(within.resolve()))
            status = int(bool(work()))
            os.write(writing, str(count()).encode())
        finally:
            os._exit(status)
    os.close(writing)
    try:
        with limited(PATIENCE_S):
            _, state = os.waitpid(child, 0)
    except Hang:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(state):
        assert os.WTERMSIG(state) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(state) == 0, f"status {os.WEXITSTATUS(state)}"
    return int(said)


def arm(at: int, within: str) -> Callable[[], int]:
    """Let this process be killed before an operation; return what counts them."""
    done = 0

    def step() -> None:
        nonlocal done
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    def hook(event: str, given: tuple[Any, ...]) -> None:
        # Files that are only read change nothing.
        writes = event == "open" and bool(
            int(given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if (event in CHANGES or writes) and is_within(given[0], within):
            step()

    synced = os.fsync

    def sync(handle: Any) -> None:
        step()
        synced(handle)

    os.fsync = sync
    sys.addaudithook(hook)
    return lambda: done


def is_within(path: object, within: str) -> bool:
    """Whether a path, as an audit hook is given it, lies within a folder."""
    if not isinstance(path, str | bytes | os.PathLike):
        return False  # a handle, whose file was counted when it was opened
    return os.path.realpath(os.fsdecode(path)).startswith(within)


# --- what is compared -----------------------------------------------------------------------------


def content(folder: Path) -> dict[str, object]:
    """Return what lies in a folder, by name: digests of files, and of records what they say."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        # A page's draft goes with the first one that is written a minute later.
        if path.is_dir() or (path.name.startswith(".") and ".html." in path.name):
            continue
        if path.name == "metrics.jsonl":
            found[name] = [
                (
                    row["step"],
                    row.get("phase"),
                    row.get("loss/merged"),
                    row.get("loss/train"),
                )
                for row in map(json.loads, path.read_text().splitlines())
            ]
        elif path.name in MEASURED or path.suffix in (
            ".html",
            ".svg",
            ".png",
            ".csv",
            ".pt2",
        ):
            found[name] = "there"  # with times in it
        else:
            found[name] = sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole run, and one that ended on its way."""
    with quick_folder(tmp_path_factory.mktemp("operations")) as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert decentral.cli.run(["launch", *SMALL, "--out", "whole"]) == 0
        shutil.copytree(folder / "whole", folder / "stopped")
        for name in ("summary.json", "merged.safetensors", "report.html"):
            (folder / "stopped" / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "stopped" / "checkpoints" / "step-000000006")
        yield folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which commands are given."""
    with quick_folder(tmp_path) as folder:
        monkeypatch.chdir(folder)
        yield folder
        monkeypatch.undo()


def lay(bench: Path, one: Writing) -> None:
    for name in ("run", "model"):
        shutil.rmtree(name, ignore_errors=True)
    if one.before:
        shutil.copytree(bench / one.before, "run")


def judge(
    bench: Path, one: Writing, at: int, wanted: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> tuple[bool, str, str]:  # fmt: skip
    """Kill a command at an operation and give it again; return whether it was killed, what is
    wrong with how it ends, and what was said.
    """
    lay(bench, one)
    if dying(lambda: decentral.cli.run(list(one.words)), at, Path()) is not None:
        return False, "", ""
    capsys.readouterr()
    with limited(PATIENCE_S):
        status = decentral.cli.run(list(one.again))
        said = capsys.readouterr().err
        if status and one.new and "is not empty" in said:
            shutil.rmtree(one.made)
            status = decentral.cli.run(list(one.again))
            said += capsys.readouterr().err
        if status and Path(one.made, "summary.json").exists():
            # It was killed while it wrote its report, and a finished run is told to be.
            assert "8 steps are done" in said
            status = decentral.cli.run(["report", one.made])
            said += capsys.readouterr().err
    if "bug in decentral" in said or "Traceback" in said:
        return True, "bug", said
    if status:
        return True, "refused", said
    found = content(Path(one.made))
    if found != wanted:
        keys = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        kinds = {"left behind" if k not in wanted else "lost or doubled" for k in keys}
        return True, " and ".join(sorted(kinds)), f"{keys}"
    is_run = Path(one.made, "config.yaml").exists()
    whole = not is_run or decentral.cli.run(["check", "run"]) == 0
    return True, "" if whole else "not whole", said + capsys.readouterr().err


def kill_everywhere(
    what: str, few: int | None, bench: Path, capsys: pytest.CaptureFixture[str]
) -> Tally:
    """Kill a command at all of its operations, or a few of them, drawn by its name; count
    what comes of it.
    """
    one, tally = WRITING[what], Tally()
    lay(bench, one)
    # Here, so that what it imports is there in every process that is forked.
    assert decentral.cli.run(list(one.words)) == 0
    wanted = content(Path(one.made))
    lay(bench, one)
    count = dying(lambda: decentral.cli.run(list(one.words)), 1 << 60, Path())
    assert count
    every = range(count)
    for at in every if few is None else random.Random(what).sample(every, few):
        killed, fault, said = judge(bench, one, at, wanted, capsys)
        # Threads take turns: the last operations may be fewer in another run.
        name = f"{what}, killed at operation {at} of {count}"
        tally.add(
            "ended as if undisturbed" if killed else "ended before", name, fault, said
        )
    return tally


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("what", WRITING)
def test_a_command_killed_at_some_operations_ends_as_if_undisturbed(
    what: str, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = kill_everywhere(what, FEW, bench, capsys)
    assert not tally.faults, "\n".join(tally.faults)


@pytest.mark.usefixtures("place")
def test_merging_writes_nothing(bench: Path) -> None:
    shutil.copytree(bench / "whole", "run")
    words = ["merge", "run", "--rule", "uniform"]
    assert dying(lambda: decentral.cli.run(words), 1 << 60, Path()) == 0


def test_drafts_of_pages_go_when_they_are_old(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / name
        for name in (".report.html.abcd_123", ".report.html.abcd_124", ".report.html.x")
    )
    for draft in (old, new, other):
        draft.touch()
    for draft in (old, other):
        os.utime(draft, (0, 0))
    write_page(tmp_path / "report.html", "page")
    assert sorted(tmp_path.iterdir()) == sorted([new, other, tmp_path / "report.html"])


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("what", WRITING)
def test_a_command_killed_at_every_operation_ends_as_if_undisturbed(
    what: str, bench: Path, capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    tally = kill_everywhere(what, None, bench, capsys)
    record_property("counts", str(tally))
    assert not tally.faults, "\n".join(tally.faults)
