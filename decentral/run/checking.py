"""Whether a run folder is whole: every file of it, a line each; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from decentral.errors import ConfigError, shell_word
from decentral.run.checkpoint import good_checkpoints, judge
from decentral.run.digests import file_digest, find_edited
from decentral.run.folder import format_of, present
from decentral.yamltext import load_file


@dataclass(frozen=True)
class Part:
    """A file or folder of a run: whether it is whole, and what it holds or lacks."""

    name: str
    whole: bool
    text: str


class _Broken(Exception):
    """What is wrong with a part."""


def check_run(folder: Path) -> Iterator[Part]:
    """Yield the parts of a run folder, checked.

    What an unfinished run cannot have yet is no fault; what any run has from its
    beginning is.
    """
    finished = (folder / "summary.json").exists()
    yield _part(folder, "config.yaml", _config)
    for name in ("env.json", "records.json", "topology.json", "data.json"):
        yield _part(folder, name, _json)
    yield _part(folder, "metrics.jsonl", lambda path: _lines(path, finished))
    yield _part(folder, "events.jsonl", lambda path: _lines(path, finished))
    yield from _checkpoints(folder, finished)
    yield from _files(folder)
    if finished or (folder / "merged.safetensors").exists():
        yield _part(folder, "merged.safetensors", _tensors)
    if finished:
        yield _part(folder, "summary.json", _summary)
    else:
        text = f"the run is not finished; `decentral resume {shell_word(folder)}` goes on with it"
        yield Part("summary.json", True, text)


def _part(folder: Path, name: str, check: Callable[[Path], str]) -> Part:
    path = folder / name
    if not path.is_file():
        return Part(name, False, "is missing")
    try:
        return Part(name, True, check(path))
    except _Broken as error:
        return Part(name, False, str(error))
    except OSError as error:
        return Part(name, False, f"cannot be read: {error.strerror}")
    except (UnicodeDecodeError, ConfigError) as error:
        return Part(name, False, f"cannot be read: {error}".rstrip("."))


def _config(path: Path) -> str:
    """Compare the settings with what the newest checkpoint says of them."""
    written, form = load_file(path), format_of(path)
    if not isinstance(written, Mapping) or form is None:
        raise _Broken("is no configuration of a run")
    settings = present({str(key): value for key, value in written.items()}, form)
    newest = next(good_checkpoints(path.parent), None)
    stated = newest.identity.get("settings", {}) if newest else {}
    if changed := find_edited(stated, settings):
        raise _Broken(f"differs from what the checkpoints state: {', '.join(changed)}")
    return f"{len(settings)} settings, format {form}"


def _json(path: Path) -> str:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _Broken(f"is no JSON ({error})") from error
    return f"{path.stat().st_size:,} bytes"


def _lines(path: Path, finished: bool) -> str:
    """Count the lines; the last one of a run that is not finished may have been cut
    by a kill.
    """
    lines = path.read_bytes().split(b"\n")
    last = lines.pop()
    steps: list[float] = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise _Broken(f"line {number} is no JSON object with a step") from error
    if last and finished:
        raise _Broken(f"line {len(lines) + 1} is cut")
    upto = f", up to step {max(steps):,}" if steps else ""
    return f"{len(lines):,} lines{upto}{', and one that a kill has cut' if last else ''}"


def _checkpoints(folder: Path, finished: bool) -> Iterator[Part]:
    home = folder / "checkpoints"
    found = sorted(home.glob("step-*"))
    for path in found:
        name = f"checkpoints/{path.name}"
        try:
            problem = judge(path)
        except ConfigError as error:
            problem = str(error).rstrip(".")
        if problem:
            yield Part(name, False, problem)
            continue
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        nodes, shards = len(manifest["nodes"]), len(manifest["digests"])
        text = f"{nodes:,} nodes in {shards} shard{'s' * (shards != 1)}; all digests hold"
        yield Part(name, True, text)
    for path in sorted(home.glob(".step-*.tmp")):
        text = "was being written when the run ended; the next one clears it away"
        yield Part(f"checkpoints/{path.name}", True, text)
    if not found:
        text = "there is none" + ("" if finished else ": the run would begin again")
        yield Part("checkpoints", not finished, text)


def _files(folder: Path) -> Iterator[Part]:
    """Compare the user's own files with what the newest checkpoint says of them."""
    newest = next(good_checkpoints(folder), None)
    stated: Mapping[str, Any] = newest.identity.get("files", {}) if newest else {}
    for path, digest in stated.items():
        now = file_digest(path)
        said = (
            "is as it was"
            if now == digest
            else "is gone"
            if now is None
            else "has changed"
        )
        yield Part(path, now == digest, said)


def _tensors(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            count = sum(file.get_tensor(name).numel() for name in names)
    except SafetensorError as error:
        raise _Broken(f"is damaged ({error})") from error
    return f"{count:,} numbers in {len(names)} tensors"


def _summary(path: Path) -> str:
    _json(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "final" not in found:
        raise _Broken("holds no final numbers")
    return f"the run is {found.get('status', 'finished')}"
