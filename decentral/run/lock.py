"""One writer per folder: a lock of the operating system, which ends with its
process, and signs of life for hosts that such a lock does not reach.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet, ref

from decentral.errors import ConfigError, RunError
from decentral.units import time_text

#: The file that is locked; it says who has the lock.
NAME = ".lock"
#: Seconds between two signs of life of whoever has a lock, and those of silence
#: after which it is gone: several signs, and longer than network file systems keep
#: what they know of a file.
BEAT_S, SILENCE_S = 5.0, 60.0

#: What ``flock`` says where another process has the lock; anything else: there are
#: no locks.
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
#: What is known of who has a lock: host, pid, ...
Holder = Mapping[str, Any]


class WriterLock:
    """The right to write into a folder, which one process at a time has.

    It is ``flock``, which the system releases however a process ends, so that a
    file that was left over never blocks. Children do not have it: the file is
    closed on exec and after a fork, or an orphan would keep the lock.

    Some file systems have no such locks, or know them on each host by itself. So
    the file is touched every ``BEAT_S``, and whoever finds it left over from
    elsewhere first looks for ``SILENCE_S`` whether somebody touches it. A process
    that was silent for longer, and was replaced, may write no more: see ``check``.
    """

    def __init__(self, folder: Path, what: str = "run folder") -> None:
        """Take it, and make the folder if need be.

        Raises ConfigError that names ``what`` and who writes there, and then
        changes nothing.
        """
        try:
            self.folder, self.what = folder.absolute(), what
        except FileNotFoundError as error:
            raise ConfigError(
                f"{what} {folder}: the folder that this process stands in is no more; change to "
                "another, or give a whole path."
            ) from error
        self.made = not os.path.exists(folder)
        self.holder = _this_process()
        try:
            self.handle: int | None = self._take()
        except OSError as error:
            raise unwritable(folder, error, what) from error
        self.alive_s, self.released = time.time(), threading.Event()
        _held.add(self)
        threading.Thread(
            target=_keep_alive,
            args=(ref(self), self.released),
            name="signs of life",
            daemon=True,
        ).start()

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
        self.released.set()
        with suppress(OSError):  # a folder may be gone by now
            # Before the lock is let go: afterwards it could be another one's file.
            if _holder_in(handle) == self.holder:
                (self.folder / NAME).unlink()
                if self.made:
                    self.folder.rmdir()
        os.close(handle)

    def __del__(self) -> None:
        """Let go of it with the run that nobody holds any more."""
        if getattr(self, "handle", None) is not None:
            self.release()

    # --- signs of life ------------------------------------------------------------

    def beat(self) -> None:
        """Give a sign of life, where it is still this process that has the lock."""
        handle = self.handle
        with suppress(OSError):  # the folder may be out of reach, or gone
            if handle is not None and _holder_in(handle) == self.holder:
                os.utime(handle)
                self.alive_s = time.time()

    def check(self) -> None:
        """Raise RunError where another process has taken over meanwhile.

        Only a process that was stopped, suspended, or cut off from its file system
        has given no sign for so long; to others this costs nothing.
        """
        if self.handle is None or time.time() - self.alive_s < SILENCE_S / 2:
            return
        found = _holder_in(self.handle)
        if found != self.holder:
            raise RunError(
                f"{self.what} {self.folder}: {_who(found)} writes into it by now, since this "
                f"process gave no sign of life for {SILENCE_S:g} s; it ends here."
            )
        self.beat()

    # --- taking it ----------------------------------------------------------------

    def _take(self) -> int:
        """Return the open, locked file."""
        while (handle := self._try()) is None:
            continue  # whoever had it has just removed it, perhaps with its folder
        # Only with the lock: until then the file says who holds it.
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(self.holder).encode(), 0)
        return handle

    def _try(self) -> int | None:
        """Return the open, locked file, or None where it went away meanwhile."""
        path = self.folder / NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            return None
        try:
            locked = self._lock(handle)
            # Locked is the file, not its name: a holder that left has removed the
            # name.
            if _is_at(handle, path):
                self._await_end(handle, locked)
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _lock(self, handle: int) -> bool:
        """Lock a file; return whether its file system has locks."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise self._taken(_holder_in(handle)) from error
            return False
        return True

    def _await_end(self, handle: int, locked: bool) -> None:
        """Return once it is certain that whom a file names is gone.

        Raises:
            ConfigError: It is not.
        """
        found = _holder_in(handle)
        if not found or self._is_gone(found, locked):
            return
        with tempfile.TemporaryFile(dir=self.folder) as now:
            # By the clock of the file system: that of the other host may be wrong.
            seen_s = os.fstat(handle).st_mtime
            left_s = SILENCE_S - (os.fstat(now.fileno()).st_mtime - seen_s)
        if left_s > 0:
            print(
                f"{self.what} {self.folder}: {_who(found)} wrote into it; looking for up to "
                f"{left_s:.0f} s whether it still does.",
                file=sys.stderr,
            )
        end_s = time.monotonic() + left_s
        while time.monotonic() < end_s:
            time.sleep(min(1.0, BEAT_S))
            # By its name: that makes network file systems ask for the time anew.
            try:
                now_s = self._touched_s()
            except FileNotFoundError:
                return  # it has let go
            if now_s != seen_s:
                raise self._taken(found)

    def _touched_s(self) -> float:
        with (self.folder / NAME).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime

    def _is_gone(self, found: Holder, locked: bool) -> bool:
        """Whether a holder has certainly ended; if not, its signs of life will
        tell.
        """
        if _same(found, self.holder, "boot") or "boot" not in found:
            # The same kernel, which lets go of locks. A file of an older version
            # does not say so, and gives no signs.
            if locked:
                return True
            return _same(found, self.holder, "space") and not _runs(found)
        # Another boot of this very machine: what ran before has ended.
        return _same(found, self.holder, "machine") and _same(found, self.holder, "host")

    def _taken(self, found: Holder) -> ConfigError:
        return ConfigError(
            f"{self.what} {self.folder} is in use: {_who(found)} writes into it; "
            "wait for its end, or stop it."
        )


_held: WeakSet[WriterLock] = WeakSet()


def _keep_alive(of: ref[WriterLock], released: threading.Event) -> None:
    """Give signs of life for whoever has a lock, until it is released or forgotten."""
    while not released.wait(BEAT_S):
        if (lock := of()) is None:
            return
        lock.beat()
        del lock  # or it would be held for ever


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


# --- who has it -------------------------------------------------------------------


def _this_process() -> Holder:
    """Describe this process: for people, and so that others can tell its end.

    ``boot`` is the boot of its kernel, ``space`` what its number counts in (every
    container begins at 1), ``started`` when it started, in ticks of the kernel,
    since numbers are given again; None where the system does not say. ``token`` is
    of this lock alone.
    """
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "since": time_text(),
        "started": _started(os.getpid()),
        **machine(),
        "token": secrets.token_hex(8),
    }


@cache
def machine() -> dict[str, str | None]:
    """Describe this machine, since its last boot."""
    return {
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "machine": _text("/etc/machine-id"),
        "space": _link("/proc/self/ns/pid"),
    }


def _started(pid: int) -> str | None:
    # Behind the name in brackets, which may hold anything, the 20th field.
    status = _text(f"/proc/{pid}/stat")
    return status.rpartition(")")[2].split()[19] if status else None


def _runs(holder: Holder) -> bool:
    """Whether a process of this machine is there, and is the one that is meant."""
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return _started(holder["pid"]) == holder.get("started")


def _text(path: str) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8").strip()
    return None


def _link(path: str) -> str | None:
    with suppress(OSError):
        return os.readlink(path)
    return None


def _same(one: Holder, other: Holder, key: str) -> bool:
    return one.get(key) is not None and one.get(key) == other[key]


def _holder_in(handle: int) -> Holder:
    """Return who a lock's file says has it; nobody where it is empty or half
    written.
    """
    try:
        found: Any = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    whole = isinstance(found, dict) and {"host", "pid", "since"} <= found.keys()
    return found if whole and isinstance(found["pid"], int) else {}


def _who(holder: Holder) -> str:
    """Name who has a lock, for people."""
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
