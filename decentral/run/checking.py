"""Whether a run folder is whole: every file of it, a line each; nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from decentral.errors import ConfigError, shell_word
from decentral.limits import (
    LINES_BYTES,
    digest_of_file,
    parse_json,
    read_bytes,
    read_json,
)
from decentral.run.checkpoint import Saved, find_lost, good_checkpoints, judge
from decentral.run.digests import (
    file_digest,
    find_edited,
    find_moved,
    format_of,
    is_sealed,
    present,
)
from decentral.run.folder import DESCRIPTION
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
    finished = os.path.lexists(folder / "summary.json")
    newest = next(good_checkpoints(folder), None)
    stated = _stated(folder, newest)
    yield _part(folder, "config.yaml", lambda path: _config(path, newest), stated)
    for name in ("env.json", *DESCRIPTION):
        yield _part(folder, name, _json, stated)
    for name in ("metrics.jsonl", "events.jsonl"):
        yield _part(folder, name, lambda path: _lines(path, finished), stated)
    yield from _checkpoints(folder, finished)
    yield from _files(folder, newest)
    if finished or os.path.lexists(folder / "merged.safetensors"):
        yield _part(folder, "merged.safetensors", _tensors, stated)
    if finished:
        yield _part(folder, "summary.json", _summary, {})
    else:
        text = f"the run is not finished; `decentral resume {shell_word(folder)}` goes on with it"
        yield Part("summary.json", True, text)


def _stated(folder: Path, newest: Saved | None) -> Mapping[str, str]:
    """Return the digests that files of a run had at its end, else those of the ones
    that no longer change.
    """
    described: Mapping[str, str] = newest.identity.get("described", {}) if newest else {}
    try:
        summary = read_json(folder / "summary.json")
        digests = summary.get("digests", {}) if is_sealed(summary) else {}
        return {**described, **digests}
    except (AttributeError, OSError, TypeError, ValueError):  # said where it is looked at
        return described


def _part(
    folder: Path, name: str, check: Callable[[Path], str], stated: Mapping[str, str]
) -> Part:
    """Check a file.

    Args:
        folder: The run folder.
        name: The file.
        check: Returns what it holds, or raises what is wrong with it.
        stated: The digests that files should have.
    """
    path = folder / name
    if not os.path.lexists(path):
        return Part(name, False, "is missing")
    try:
        found = check(path)
        if stated.get(name) not in (None, digest_of_file(path)):
            return Part(name, False, "is not what it was: its digest differs")
        return Part(name, True, found)
    except _Broken as error:
        return Part(name, False, str(error))
    except OSError as error:
        return Part(name, False, f"cannot be read: {error.strerror}")
    except (UnicodeDecodeError, ConfigError) as error:
        return Part(name, False, f"cannot be read: {error}".rstrip("."))


def _config(path: Path, newest: Saved | None) -> str:
    """Compare the settings with what the newest checkpoint says of them."""
    written, form = load_file(path), format_of(path)
    if not isinstance(written, Mapping) or form is None:
        raise _Broken("is no configuration of a run")
    settings = present({str(key): value for key, value in written.items()}, form)
    stated = newest.identity.get("settings", {}) if newest else {}
    if changed := find_edited(stated, settings):
        raise _Broken(f"differs from what the checkpoints state: {', '.join(changed)}")
    return f"{len(settings)} settings, format {form}"


def _json(path: Path) -> str:
    try:
        read_json(path)
    except ValueError as error:
        raise _Broken(f"is no JSON ({error})") from error
    return f"{path.stat().st_size:,} bytes"


def _lines(path: Path, finished: bool) -> str:
    """Count the lines; the last one of a run that is not finished may have been cut
    by a kill.
    """
    lines = read_bytes(path, LINES_BYTES).split(b"\n")
    last = lines.pop()
    steps: list[float] = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(float(parse_json(line)["step"]))
        except (ValueError, LookupError, OverflowError, TypeError) as error:
            raise _Broken(f"line {number} is no JSON object with a step") from error
    if last and finished:
        raise _Broken(f"line {len(lines) + 1} is cut")
    upto = f", up to step {max(steps):,.0f}" if steps else ""
    return f"{len(lines):,} lines{upto}{', and one that a kill has cut' if last else ''}"


def _checkpoints(folder: Path, finished: bool) -> Iterator[Part]:
    home = folder / "checkpoints"
    found = sorted(home.glob("step-*"))
    for path in found:
        name = f"checkpoints/{path.name}"
        try:
            saved = judge(path)
        except ConfigError as error:
            saved = str(error).rstrip(".")
        if wrong := saved if isinstance(saved, str) else find_lost(saved):
            yield Part(name, False, wrong)
            continue
        assert not isinstance(saved, str), "what is said is said of what is damaged"
        nodes, shards = len(saved.live), len(saved.shards)
        text = f"{nodes:,} nodes in {shards} shard{'s' * (shards != 1)}; all digests hold"
        yield Part(name, True, text)
    for path in sorted(home.glob(".step-*.tmp")):
        text = "was being written when the run ended; the next one clears it away"
        yield Part(f"checkpoints/{path.name}", True, text)
    if not found:
        text = "there is none" + ("" if finished else ": the run would begin again")
        yield Part("checkpoints", not finished, text)


def _files(folder: Path, newest: Saved | None) -> Iterator[Part]:
    """Compare the user's own files with what the newest checkpoint says of them."""
    stated: Mapping[str, Any] = newest.identity.get("files", {}) if newest else {}
    # They may have moved along with the run.
    find_moved(folder, {"files": [{"name": path} for path in stated]})
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
    read_bytes(path, LINES_BYTES)  # a file, and no endless one
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            count = sum(file.get_tensor(name).numel() for name in names)
    except SafetensorError as error:
        raise _Broken(f"is damaged ({error})") from error
    return f"{count:,} numbers in {len(names)} tensors"


def _summary(path: Path) -> str:
    _json(path)
    found = read_json(path)
    if not isinstance(found, dict) or "final" not in found:
        raise _Broken("holds no final numbers")
    if not is_sealed(found):  # pyright: ignore[reportUnknownArgumentType]
        raise _Broken("is not what it was: its digest differs")
    return f"the run is {found.get('status', 'finished')}"
