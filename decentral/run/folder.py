"""The files of a run folder, written so that a kill at any moment leaves a readable
run.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Container, Iterable, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError, RunError, shell_word
from decentral.limits import (
    LINES_BYTES,
    digest_of_file,
    named_folder,
    open_file,
    parse_json,
)
from decentral.run.digests import Growing, config_head
from decentral.run.lock import NAME as LOCK
from decentral.run.lock import WriterLock, unwritable
from decentral.units import time_text
from decentral.yamltext import dump

#: What says what a run is, and no longer changes once it is written.
DESCRIPTION = ("records.json", "topology.json", "data.json")
#: What a finished run consists of, beside its configuration and its checkpoints.
RESULT = (
    *DESCRIPTION, "env.json", "metrics.jsonl", "events.jsonl", "merged.safetensors",
)  # fmt: skip


class RunFolder:
    """A run folder open for writing: by one process at a time, where it holds the
    ``lock``.
    """

    def __init__(self, path: Path, lock: WriterLock | None = None) -> None:
        """Open an existing folder."""
        self.path, self.lock = path, lock
        #: What every checkpoint says of the run: see ``digests.identity``.
        self.identity: dict[str, Any] = {}
        self._grown: dict[str, Growing] = {}

    def __enter__(self) -> RunFolder:
        """Write."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let others write."""
        if self.lock:
            self.lock.release()

    @staticmethod
    def claim(path: Path) -> RunFolder:
        """Take a folder, whatever it holds; raises ConfigError while another
        process writes it.
        """
        return RunFolder(path, WriterLock(path))

    @staticmethod
    def create(path: str | Path) -> RunFolder:
        """Make a run folder; refuses one that holds more than a run without a
        checkpoint.
        """
        folder = named_folder(path)
        _refuse_run(folder)
        with ExitStack() as undo:
            claimed = undo.enter_context(RunFolder.claim(folder))
            _refuse_run(folder)  # somebody may have written it meanwhile
            claimed.prepare()
            undo.pop_all()
        return claimed

    @staticmethod
    def number(parent: Path, stem: str) -> RunFolder:
        """Make the run folder ``<stem>-<number>`` with the first number that nobody
        has.
        """
        while True:
            folder = next_name(parent, stem)
            try:
                folder.mkdir(parents=True)
            except FileExistsError:  # launched at the same moment
                continue
            except OSError as error:
                raise unwritable(folder, error) from error
            return RunFolder.create(folder)

    def prepare(self) -> None:
        """Make room for checkpoints; raises ConfigError where nothing can be
        written.
        """
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.write_bytes(b"decentral")
            probe.unlink()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def check(self) -> None:
        """Raise RunError where another process writes here by now: see
        ``WriterLock.check``.
        """
        if self.lock:
            self.lock.check()

    def refuse_others(self) -> None:
        """Raise ConfigError where something lies that no run has begun here: parts
        of one that does not say what it was, or files of somebody else.
        """
        held = entries(self.path, "")
        names = [
            f"checkpoints/{name}" for name in entries(self.path / "checkpoints", "step-")
        ]
        names += [name for name in RESULT[-3:] if name in held]
        if names:
            raise ConfigError(
                f"{self.path} holds {names[0]} of a run, but no config.yaml; restore that file, "
                "or choose another --out."
            )
        # What a queue or a file manager lays beside a run is no reason.
        foreign = [
            name
            for name in held
            if not name.startswith((".", "checkpoints"))
            and not name.endswith((".log", ".out", ".err"))
        ]
        if foreign:
            raise ConfigError(
                f"--out {shell_word(self.path)} is no folder of a run, and not empty: it holds "
                f"{foreign[0]}; choose a new folder, such as "
                f"{shell_word(self.path / 'run-1')}."
            )

    def clear(self) -> None:
        """Remove all that the folder holds, but not the lock on it."""
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    @property
    def is_begun(self) -> bool:
        """Whether a run was described here, be it without a step."""
        return (self.path / "config.yaml").exists()

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file atomically."""
        self.check()
        target = self.path / name
        temporary = target.with_name(f".{name}.tmp")
        with explain_disk_errors(self.path):
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file atomically."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write_config(self, settings: Mapping[str, Any], *, changed: bool = False) -> None:
        """Write the resolved configuration; one that was ``changed`` on the way
        says so.
        """
        self.write("config.yaml", config_head(changed) + dump(settings))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one JSON object as a line."""
        self.check()
        with (
            explain_disk_errors(self.path),
            (self.path / name).open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def event(self, kind: str, step: int, **details: Any) -> None:
        """Append one event."""
        now = time_text("milliseconds")
        self.append("events.jsonl", {"event": kind, "step": step, "time": now, **details})

    def stamp(self, name: str) -> tuple[int, str]:
        """Return the length of a file of lines, 0 if there is none, and its digest,
        when all of that is on the disk.
        """
        with explain_disk_errors(self.path):
            return self._grown.setdefault(name, Growing(self.path / name)).stamp()

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return the digests of some of its files, by name; of none that is not
        there, or cannot be read.
        """
        found: dict[str, str] = {}
        for name in names:
            with suppress(OSError):  # said by whoever reads it
                found[name] = digest_of_file(self.path / name)
        return found

    def rows(self, name: str, *, key: str = "") -> list[dict[str, Any]]:
        """Return the JSON objects of a file of lines, all or those that have a key."""
        target, mark = self.path / name, f'"{key}"'.encode() if key else b""
        if not target.exists():
            return []
        # Line by line, and not parsed in vain: there may be millions.
        with open_file(target, LINES_BYTES) as file:
            lines = [line for line in file if mark in line]
        try:
            found = [{**parse_json(line)} for line in lines]
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{target} cannot be read ({error}); restore it, or launch a new run."
            ) from error
        return [row for row in found if not key or key in row]

    def forget(self, name: str, length: int, kinds: Container[str]) -> None:
        """Drop the events of some kinds that stand behind the first ``length``
        bytes.

        Args:
            name: Name of the file.
            length: Bytes that stay as they are.
            kinds: Kinds of events that are dropped behind them.
        """
        target = self.path / name
        whole = target.read_bytes() if target.exists() else b""
        self._grown.pop(name, None)
        later = whole[length:].decode("utf-8", errors="replace").splitlines()
        kept = [line for line in later if (kind := _event_of(line)) and kind not in kinds]
        if len(kept) < len(later):  # a full disk must not hinder what needs no writing
            self.write(
                name, whole[:length] + "".join(f"{line}\n" for line in kept).encode()
            )

    def truncate(self, name: str, length: int) -> None:
        """Cut a file back to what it was at a checkpoint."""
        target = self.path / name
        self._grown.pop(name, None)
        if target.exists():
            # ``truncate`` would fill a file that has lost its end with zeros.
            os.truncate(target, min(length, target.stat().st_size))


class explain_disk_errors:
    """Turns a failing write into a RunError that says what to do."""

    def __init__(self, folder: Path) -> None:
        """Name the run folder."""
        self.folder = folder

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Explain a full disk or a lost permission."""
        if not isinstance(error, OSError):
            return
        cause = (
            "the disk is full"
            if error.errno == errno.ENOSPC
            else os.strerror(error.errno or 0)
        )
        raise RunError(
            f"cannot write to run folder {self.folder}: {cause}. The last checkpoint is intact; "
            f"make room, then `decentral resume {shell_word(self.folder)}`."
        ) from error


def _refuse_run(folder: Path) -> None:
    """Raise ConfigError where a run has left something to go on from, or to look
    at.
    """
    if not os.path.exists(folder / "config.yaml"):
        RunFolder(folder).refuse_others()
        return
    if (folder / "summary.json").exists() or any((folder / "checkpoints").glob("step-*")):
        raise ConfigError(
            f"{folder} already holds a run; choose another --out, "
            f"or continue it with `decentral resume {shell_word(folder)}`."
        )


def entries(folder: Path, prefix: str) -> list[str]:
    """Return the sorted names in a folder that begin so; none where it cannot be
    looked into.
    """
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(prefix))
    except OSError:
        return []


def _event_of(line: str) -> str | None:
    """Return an event's kind, None for a line that a kill has left unfinished."""
    try:
        return parse_json(line)["event"]
    except (ValueError, LookupError, TypeError):
        return None


def next_name(parent: Path, stem: str) -> Path:
    """Return the first free ``<stem>-<number>`` in a folder."""
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-")
    # One more than the largest: numbers of runs that were deleted do not come back.
    taken = [p.name for p in parent.glob(f"{stem}-*")] if parent.is_dir() else []
    numbers = [
        int(m[1])
        for name in taken
        if (m := re.fullmatch(rf"{re.escape(stem)}-(\d+)", name))
    ]
    return parent / f"{stem}-{max(numbers, default=0) + 1}"


# --- what a run ran on ------------------------------------------------------------

_PACKAGES = (
    "decentral",
    "torch",
    "numpy",
    "networkx",
    "pydantic",
    "safetensors",
    "scikit-learn",
)


def environment(device: str, threads: int, folder: Path | None = None) -> dict[str, Any]:
    """Return versions, git state, device and host of this process, and where a run
    is kept.

    Args:
        device: That models are on.
        threads: That torch uses.
        folder: Of the run, if it is one.
    """
    found = {
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git(),
        "device": device,
        "threads": threads,
        "hosts": [platform.node()],
        "command": sys.argv,
    }
    return found if folder is None else {**found, "folder": str(folder.resolve())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """Return the commit of decentral's own checkout, or None when it is not one."""
    home = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=home, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except OSError:
        return None
    return found.stdout.strip() or None
