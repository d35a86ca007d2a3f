"""Bytes and text of graph files: unpacked and decoded."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from decentral.topology.files.content import Unreadable

#: Most bytes of a graph file, unpacked; what unpacks to more is no graph that fits into a run.
MOST_BYTES = 1 << 30

_GZIP = b"\x1f\x8b"
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def unpacked(path: Path) -> bytes:
    """Return the bytes of a file, decompressed where they are gzip's, whatever its name says."""
    with path.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if data.startswith(_GZIP):
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MOST_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise Unreadable(f"it cannot be unpacked ({error})", "a whole gzip file") from error
    elif path.suffix.lower() == ".gz":
        raise Unreadable("its ending is .gz, but it is not compressed", "a gzip file")
    if len(data) > MOST_BYTES:
        raise Unreadable("it is larger than that", f"at most {MOST_BYTES >> 20} MiB, unpacked")
    return data


def decoded(data: bytes) -> str:
    """Return bytes as text with plain line ends: UTF-8, what a byte-order mark says, or Latin-1.

    GML, Pajek and lists were written in Latin-1 for decades, and say so nowhere.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable("it holds a zero byte, which is no text", "a text file", line)
    return text
