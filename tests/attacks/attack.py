"""What an attack is: a command on bad input, what came out of it, and the count of that."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest

import decentral.cli

#: Seconds after which a command hangs.
LIMIT_S = 30
#: Lets a finished run, whose models are one, train on.
CHANGE = ["resume", "run", "-q", "--change", "steps=8", "--change", "final_merge"]
#: What ends on a line of an error, unless it names what is asked for.
MOST = 1500
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Hang(BaseException):
    """What no command catches."""


@contextmanager
def limited(seconds: float) -> Generator[None]:
    """Raise ``Hang`` in what takes longer, also where it waits for a file."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Hang

    kept = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


#: A disk that lies in memory, on Linux: what is synced there waits for nobody.
MEMORY = Path("/dev/shm")


@contextmanager
def quick_folder(otherwise: Path) -> Generator[Path]:
    """Yield a folder in memory, where there is that: a process that is killed loses
    nothing of what it has written, synced or not.
    """
    if not os.access(MEMORY, os.W_OK):
        yield otherwise
        return
    folder = Path(tempfile.mkdtemp(prefix="attack-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Outcome:
    """What came out of a command: its status, what it printed, how long it took."""

    status: int
    out: str
    said: str
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with how the command ended; nothing where it is right."""
        if "hang" in self.said and self.status < 0:
            return "hang"
        if "bug in decentral" in self.said or "Traceback" in self.said + self.out:
            return "bug"
        lines = self.said.splitlines()
        if self.status and not 1 <= len([one for one in lines if "error:" in one]) <= 1:
            return "not one line of error"
        if _CONTROL.search(self.said.replace("\n", "") + self.out.replace("\n", "")):
            return "control characters"
        return "endless" if any(len(one) > MOST for one in lines) else ""


def attack(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command; it may fail, and must not hang."""
    capsys.readouterr()
    began = time.perf_counter()
    try:
        with limited(LIMIT_S):
            status = decentral.cli.run(words)
    except Hang:
        capsys.readouterr()
        return Outcome(-1, "", "hang", time.perf_counter() - began)
    out, said = capsys.readouterr()
    return Outcome(status, out, said, time.perf_counter() - began)


@dataclass
class Tally:
    """Outcomes, counted, and the faults among them."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])

    def add(self, what: str, name: str, fault: str = "", said: str = "") -> None:
        """Count an outcome, under a fault if it is one."""
        self.counts[fault or what] += 1
        if fault:
            self.faults.append(f"{name}: {fault}: {said.strip()[:300]}")

    def __str__(self) -> str:
        """Return the counts on one line, those that must be 0 as well."""
        must = {"bug": 0, "hang": 0, "accepted": 0, "lost or doubled": 0}
        return ", ".join(f"{n} {what}" for what, n in {**self.counts, **{
            key: self.counts[key] for key in must}}.items())  # fmt: skip
