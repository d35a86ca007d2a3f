"""The files of a run folder, written so that a kill at any moment leaves a readable run."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decentral.config import dump
from decentral.errors import ConfigError, RunError

FORMAT = 2


class RunFolder:
    """A run folder open for writing."""

    def __init__(self, path: Path) -> None:
        """Open an existing folder."""
        self.path = path

    @staticmethod
    def create(path: str | Path) -> RunFolder:
        """Make a new run folder; refuses one that already holds a run."""
        folder = Path(path).expanduser()
        if os.path.exists(folder / "config.yaml"):
            raise ConfigError(
                f"{folder} already holds a run; choose another --out, "
                f"or continue it with `decentral resume {folder}`."
            )
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_bytes(b"decentral")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run folder {folder} cannot be written ({os.strerror(error.errno or 0)}); "
                "choose another --out."
            ) from error
        return RunFolder(folder)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file atomically."""
        target = self.path / name
        temporary = target.with_name(f".{name}.tmp")
        with explained(self.path):
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file atomically."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        head = (
            f"# decentral run, format {FORMAT}: `decentral launch` on this file repeats the run\n"
        )
        self.write("config.yaml", head + dump(settings))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one JSON object as a line."""
        with explained(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def event(self, kind: str, step: int, **details: Any) -> None:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.append("events.jsonl", {"event": kind, "step": step, "time": now, **details})

    def offset(self, name: str) -> int:
        """Return the length of a file in bytes, 0 if there is none."""
        target = self.path / name
        return target.stat().st_size if target.exists() else 0

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the JSON objects of a file of lines."""
        target = self.path / name
        lines = target.read_text(encoding="utf-8").splitlines() if target.exists() else []
        return [json.loads(line) for line in lines]

    def forget(self, name: str, length: int, kinds: Container[str]) -> None:
        """Drop the events of some kinds that stand behind the first ``length`` bytes."""
        target = self.path / name
        whole = target.read_bytes() if target.exists() else b""
        later = whole[length:].decode("utf-8", errors="replace").splitlines()
        kept = [line for line in later if (kind := _event_of(line)) and kind not in kinds]
        if len(kept) < len(later):  # a full disk must not hinder what needs no writing
            self.write(name, whole[:length] + "".join(f"{line}\n" for line in kept).encode())

    def truncate(self, name: str, length: int) -> None:
        """Cut a file back to what it was at a checkpoint."""
        target = self.path / name
        if target.exists():
            os.truncate(target, min(length, target.stat().st_size))


class explained:
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
        cause = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
        raise RunError(
            f"cannot write to run folder {self.folder}: {cause}. The last checkpoint is intact; "
            f"make room, then `decentral resume {self.folder}`."
        ) from error


def _event_of(line: str) -> str | None:
    """Return an event's kind, None for a line that a kill has left unfinished."""
    try:
        return json.loads(line)["event"]
    except ValueError:
        return None


def next_name(parent: Path, stem: str) -> Path:
    """Return the first free ``<stem>-<number>`` in a folder."""
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-")
    taken = [p.name for p in parent.glob(f"{stem}-*")] if parent.is_dir() else []
    numbers = [
        int(m[1]) for name in taken if (m := re.fullmatch(rf"{re.escape(stem)}-(\d+)", name))
    ]
    return parent / f"{stem}-{max(numbers, default=0) + 1}"
