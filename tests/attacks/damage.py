"""Run folders, damaged: every file in every way, each field of what is read back."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a file is replaced by, or what is done with its bytes.
Harm = Callable[[Path, Path], None]

#: The files of a finished run, and of its checkpoints.
FILES = (
    "config.yaml", "env.json", "records.json", "topology.json", "data.json", "metrics.jsonl",
    "events.jsonl", "merged.safetensors", "summary.json",
)  # fmt: skip
DEEP = 100_000


def _empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def _cut(file: Path, other: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _flip_at(share: float) -> Harm:
    def flip(file: Path, other: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(int(share * len(data)), len(data) - 1)] ^= 1
        file.write_bytes(bytes(data))

    return flip


def _missing(file: Path, other: Path) -> None:
    file.unlink()


def _foreign(file: Path, other: Path) -> None:
    shutil.copyfile(other, file)


def _deep(file: Path, other: Path) -> None:
    file.write_bytes(b'{"step": ' + b"[" * DEEP + b"]" * DEEP + b"}\n")


def _unclosed(file: Path, other: Path) -> None:
    file.write_bytes(b"[" * DEEP)


def _zeros(file: Path, other: Path) -> None:
    file.write_bytes(bytes(len(file.read_bytes())))


def _latin(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\xe9\xff\n")


def _fifo(file: Path, other: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _device(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _loop(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _dangling(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _folder(file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


def _huge(file: Path, other: Path) -> None:
    """Make a file of many gigabytes, none of which is on the disk."""
    with file.open("r+b") as stream:
        stream.truncate(1 << 40)


def _text(file: Path, other: Path) -> None:
    file.write_text("\x1b[31mred\x1b[0m\x07 \x9b2J\n")


HARMS: dict[str, Harm] = {
    "empty": _empty,
    "cut": _cut,
    "flipped at the beginning": _flip_at(0.01),
    "flipped in the middle": _flip_at(0.5),
    "flipped at the end": _flip_at(1.0),
    "missing": _missing,
    "of another run": _foreign,
    "nested too deep": _deep,
    "nested and not closed": _unclosed,
    "zeros": _zeros,
    "not UTF-8": _latin,
    "a FIFO": _fifo,
    "a device": _device,
    "a link to itself": _loop,
    "a link to nowhere": _dangling,
    "a folder": _folder,
    "of a terabyte": _huge,
    "escape sequences": _text,
}

#: What a field of JSON is replaced by.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e400, float("nan"), 10**30, "", "\x1b[31mx", [], {}, [[]], {"": None},
    "../../../../etc/passwd", "/dev/zero",
)  # fmt: skip


def files_of(run: Path) -> list[str]:
    """Return the files of a run that are read back, relative to its folder."""
    shards = sorted(str(p.relative_to(run)) for p in run.glob("checkpoints/step-*/*"))
    return [*FILES, *shards]


@dataclass(frozen=True)
class Damage:
    """A way to damage a run folder."""

    name: str
    file: str
    harm: Harm


def damages(run: Path) -> Iterator[Damage]:
    """Yield every file in every way."""
    for file in files_of(run):
        for name, harm in HARMS.items():
            yield Damage(f"{file}, {name}", file, harm)


def field_damages(run: Path) -> Iterator[Damage]:
    """Yield every field of every file of JSON with every value that it cannot have."""
    for file in files_of(run):
        if not file.endswith((".json", ".jsonl")):
            continue
        whole = json.loads((run / file).read_text().splitlines()[0]
                           if file.endswith("l") else (run / file).read_text())  # fmt: skip
        for place in _places(whole):
            for value in VALUES:
                name = f"{file}, {'/'.join(map(str, place))} = {str(value)[:20]!r}"
                yield Damage(name, file, _put(place, value))


def _places(value: Any, most: int = 2) -> Iterator[tuple[str | int, ...]]:
    """Yield the places within a value, down to a depth; of a list, the first, and of many
    digests, which are all treated alike, two.
    """
    pairs: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
        if len(pairs) > 8 and all(_is_digest(inner) for _, inner in pairs):
            pairs = pairs[:2]
    elif isinstance(value, list) and value:
        pairs = [(0, value[0])]
    for key, inner in pairs:
        yield (key,)
        if most > 1:
            yield from ((key, *rest) for rest in _places(inner, most - 1))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) is not None


def _put(place: tuple[str | int, ...], value: Any) -> Harm:
    def put(file: Path, other: Path) -> None:
        text = file.read_text()
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        whole = json.loads(lines[0])
        inner = whole
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        if "sha256" in whole and place != ("sha256",):
            whole = reseal(whole)
        file.write_text("\n".join([json.dumps(whole), *lines[1:]]) + "\n")

    return put


def reseal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest whose own digest is right, as somebody who means harm has it."""
    from decentral.run.digests import digest_of

    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": digest_of(content)}
