"""What ends with a process: the folders that it made for itself, and whoever works
in them.

Only the standard library is imported, for this file is also the program that keeps
a folder.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: Seconds within which a keeper kills who uses its folder, and removes it.
KEEPER_S = 20.0


class OwnFolder:
    """A temporary folder that goes with this process, however it ends.

    What a ``with`` would remove stays behind where a process is killed. So a
    keeper, a small process of its own, waits for a pipe whose other end only this
    process holds, and removes the folder then. It lies in a session of its own, out
    of reach of Ctrl-C and of signals to this process and its kin.
    """

    def __init__(
        self, prefix: str, parent: Path | None = None, *, kills: bool = False
    ) -> None:
        """Make it, for this user alone.

        Args:
            prefix: How its name begins.
            parent: Where it is made; none: where temporary files are.
            kills: Whether whoever still uses it then is killed: processes with one
                of its files open, or with ``tmp`` in it as their ``TMPDIR``. Other
                systems than Linux do not tell.
        """
        self._keeper: subprocess.Popen[bytes] | None = None
        self._maker = os.getpid()
        # Without links: so the system names files that are open.
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        # -I, -S: nothing of the environment or of installed packages is imported.
        command = [sys.executable, "-I", "-S", __file__, str(self.path)]
        try:
            self._keeper = subprocess.Popen(
                [*command, *(["kill"] if kills else [])],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self.path.rmdir()
            raise

    def __enter__(self) -> Path:
        """Return where it is."""
        return self.path

    def __exit__(self, *error: object) -> None:
        """Remove it."""
        self.close()

    def close(self) -> None:
        """Let the keeper remove it, and wait for that."""
        keeper, self._keeper = self._keeper, None
        if keeper is None or os.getpid() != self._maker:  # a forked child lets it be
            return
        try:
            # A byte, and not only the end: a child that was forked may hold the
            # pipe. It ends after ``KEEPER_S`` of its own time; a busy machine adds
            # some.
            keeper.communicate(b"\n", timeout=2 * KEEPER_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        # Somebody may have killed the keeper.
        shutil.rmtree(self.path, ignore_errors=True)

    def __del__(self) -> None:
        """Remove it with whoever holds it."""
        self.close()


def _keep(folder: str, kills: bool) -> None:
    """Wait for the end of the process that started this one, or for its word; then
    remove a folder of its.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A stop meant for all: the folder is still needed until the other one ends.
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    # The end of the pipe may come late: a child that was forked holds it, too.
    while os.getppid() == parent and not select.select([sys.stdin], [], [], 1.0)[0]:
        continue
    end_s = time.monotonic() + KEEPER_S
    while time.monotonic() < end_s:
        # Whoever gave the word lives on, perhaps with a log in the folder.
        spared = {os.getpid(), parent} if os.getppid() == parent else {os.getpid()}
        using = set(_users(folder)) - spared if kills else set[int]()
        for process in using:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not using and not os.path.lexists(folder):
            return
        time.sleep(0.05)


def _users(folder: str) -> Iterator[int]:
    """Yield the processes of this user that use a folder, by their number."""
    temporary = f"TMPDIR={folder}/tmp".encode()
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        # Others' processes cannot be looked into, and some end meanwhile.
        with suppress(OSError):
            if not entry.isdigit() or os.stat(f"/proc/{entry}").st_uid != os.getuid():
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                inherited = temporary in file.read().split(b"\0")
            # A process that names itself, as Ray's do, may write over its
            # environment.
            if inherited or _has_open(entry, f"{folder}/"):
                yield int(entry)


def _has_open(process: str, begin: str) -> bool:
    """Whether a process has a file open whose path begins so."""
    home = f"/proc/{process}/fd"
    for handle in os.listdir(home):
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(f"{home}/{handle}").startswith(begin):
                return True
    return False


def remove_folder(folder: Path) -> None:
    """Remove a folder at one blow: what a kill leaves of it is hidden, and goes
    with the next one that is removed beside it.
    """
    with suppress(OSError):
        folder.rename(folder.with_name(f".{folder.name}.old"))
    for rest in folder.parent.glob(".*.old"):
        shutil.rmtree(rest, ignore_errors=True)


if __name__ == "__main__":
    _keep(sys.argv[1], "kill" in sys.argv[2:])
