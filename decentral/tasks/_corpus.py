"""Text as streams of tokens: what is read, how it is cut, and who learns it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from decentral.errors import ConfigError

#: Characters of a chunk; the last tenth of every chunk is kept for the test.
CHUNK, TEST = 20_000, 0.1

#: Characters read at a time.
_PIECE = 1 << 20

#: Pieces of text in order, each with the name of the source that it continues or begins.
Pieces = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Segment:
    """Text within one part of one chunk of one source."""

    source: str
    chunk: int
    split: str
    text: str


def topics() -> Pieces:
    """Yield the language reference that ships with CPython; a source is a topic."""
    from pydoc_data.topics import topics as found

    return ((name, text + "\n") for name, text in found.items())


def files_of(path: str) -> list[Path]:
    """Return the file at ``path``, or all files below it."""
    place = Path(path).expanduser()
    found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    if not found:
        raise ConfigError(f"task 'text': {path} is no file and no folder with files; check path=.")
    return found


def read(files: Iterable[Path], encoding: str, separator: str | None) -> Pieces:
    """Yield the text of files; a source is a file, or what begins with a ``separator`` line."""
    for file in files:
        try:
            with file.open(encoding=encoding, newline="") as opened:
                pieces = iter(lambda: opened.read(_PIECE), "") if separator is None else opened
                part = 0
                for piece in pieces:
                    part += separator is not None and piece.startswith(separator)
                    yield (f"{file.name}:{part}" if separator else file.name), piece
        except UnicodeDecodeError as error:
            raise ConfigError(f"task 'text': {file} is not UTF-8; use tokens=byte.") from error


def segments(pieces: Pieces, val: float) -> Iterator[Segment]:
    """Cut text, sources end to end, into chunks of which the last parts are held out.

    Of every chunk the last tenth is for the test, and the share ``val`` of the rest, its end, for
    validation.
    """
    kept = CHUNK * (1 - TEST)
    ends = {"train": round(kept * (1 - val)), "val": round(kept), "test": CHUNK}
    at = 0
    for source, piece in pieces:
        place = 0
        while place < len(piece):
            within = at % CHUNK
            split, end = next((name, end) for name, end in ends.items() if within < end)
            text = piece[place : place + end - within]
            yield Segment(source, at // CHUNK, split, text)
            place += len(text)
            at += len(text)
