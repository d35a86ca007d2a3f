"""One writer per folder: a lock of the operating system, which ends with its
process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from decentral.errors import ConfigError

#: The file that is locked; it says for people who has the lock, and holds nothing
#: when stale.
NAME = ".lock"

#: What ``flock`` says where another process has the lock; anything else: there are
#: no locks.
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class WriterLock:
    """The right to write into a folder, which one process at a time has.

    It is ``flock``, which the system releases however a process ends, so that a
    file that was left over never blocks. Children do not have it: the file is
    closed on exec and after a fork, or an orphan would keep the lock.
    """

    def __init__(self, folder: Path, what: str = "run folder") -> None:
        """Take it, and make the folder if need be.

        Raises ConfigError that names ``what`` and who writes there, and then
        changes nothing.
        """
        self.folder, self.what = folder.absolute(), what
        self.made = not os.path.exists(folder)
        try:
            self.handle: int | None = self._take()
        except OSError as error:
            raise unwritable(folder, error, what) from error
        _held.add(self)

    def __enter__(self) -> WriterLock:
        """Hold it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of it."""
        self.release()

    def release(self) -> None:
        """Let others write; a folder that was made for nothing goes, too."""
        handle, self.handle = self.handle, None
        if handle is None:
            return
        with suppress(OSError):  # a folder may be gone by now
            # Before the lock is let go: afterwards it could be another one's file.
            (self.folder / NAME).unlink()
            if self.made:
                self.folder.rmdir()
        os.close(handle)

    def __del__(self) -> None:
        """Let go of it with the run that nobody holds any more."""
        if getattr(self, "handle", None) is not None:
            self.release()

    def _take(self) -> int:
        """Return the open, locked file."""
        path = self.folder / NAME
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(handle)
            except BaseException:
                os.close(handle)
                raise
            # Locked is the file, not its name: a holder that left has removed the
            # name.
            if _is_at(handle, path):
                break
            os.close(handle)  # whoever had it has just removed it: lock the new one
        # Only with the lock: until then the file says who holds it.
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_holder()).encode(), 0)
        return handle

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise ConfigError(
                    f"{self.what} {self.folder} is in use: {_who(handle)} writes into it; "
                    "wait for its end, or stop it."
                ) from error
            cause = os.strerror(error.errno or 0)
            print(
                f"{self.what} {self.folder}: its file system has no locks ({cause}); "
                "see to it that nobody else writes there.",
                file=sys.stderr,
            )


_held: WeakSet[WriterLock] = WeakSet()


def _close_in_child() -> None:
    """Leave the locks to the parent: a lock lives until the last copy of its file
    is closed.
    """
    for lock in list(_held):
        handle, lock.handle = lock.handle, None
        if handle is not None:
            os.close(handle)


os.register_at_fork(after_in_child=_close_in_child)


def unwritable(folder: Path, error: OSError, what: str = "run folder") -> ConfigError:
    """Return the error for a folder that cannot be made or written.

    Args:
        folder: The folder.
        error: What the system said.
        what: What it is, for the message.
    """
    cause = os.strerror(error.errno or 0)
    return ConfigError(
        f"{what} {folder} cannot be written ({cause}); choose another --out."
    )


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _holder() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": platform.node(), "pid": os.getpid(), "since": now}


def _who(handle: int) -> str:
    """Name who has the lock; the file may be half written."""
    try:
        holder: dict[str, Any] = json.loads(os.pread(handle, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (ValueError, KeyError, TypeError):
        return "another process"
