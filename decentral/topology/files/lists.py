"""Links in lines: lists of SNAP, KONECT and networkx.

What is known of a file stands in its comments, if anywhere: SNAP and KONECT say there whether links
go one way, and how many there are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from decentral import limits
from decentral.topology.files.content import (
    WEIGHT,
    Content,
    Unreadable,
    decimal,
    is_number,
    shown,
)
from decentral.topology.files.tables import read_table

_COMMENTS = ("#", "%")
_KONECT = re.compile(r"%\s*(asym|sym|bip)\b", re.IGNORECASE)
_COUNTS = re.compile(r"%((?:\s+\d+)+)\s*")
_SNAP_WAY = re.compile(r"#\s*(directed|undirected)\b", re.IGNORECASE)
_SNAP_COUNTS = re.compile(r"#\s*Nodes:\s*(\d+)\s+Edges:\s*(\d+)", re.IGNORECASE)
_NOTE = re.compile(r"\s#.*")


@dataclass
class _Header:
    """What the comments of a list announce."""

    form: str = "edge list"
    directed: bool | None = None
    bipartite: bool = False
    nodes: int | None = None
    sides: tuple[int, ...] = ()
    links: int | None = None
    line: int | None = None


def read_list(text: str, directed: bool | None = None) -> Content:
    """Read a list of links: two nodes in a line, and perhaps a weight or ``{'weight': 0.5}``.

    Args:
        text: The file; a list with commas, semicolons or columns is read as a table.
        directed: Whether links go one way; None: as the comments say, else no.
    """
    lines = text.split("\n")
    rows = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith(_COMMENTS)
    ]
    header = _header(lines)
    if header.form == "edge list" and rows and _is_table(rows[0][1]):
        return read_table(text, directed)
    content = Content(header.form, declares=False)
    content.directed = bool(header.directed if directed is None else directed)
    if header.sides:
        if sum(header.sides) > 2 * limits.NODES:
            found = f"{max(header.sides):,} nodes are announced"
            raise Unreadable(found, f"at most {limits.NODES:,}", header.line)
        content.declares = True
        for name in _declared(header):
            content.add_node(name, {})
    for number, line in rows:
        ends, data = _row(_NOTE.sub("", line).strip(), header, number)
        content.add_link(ends, data, number)
    content.check()
    content.check_counts(header.nodes, header.links, header.line)
    return content


def _is_table(first: str) -> bool:
    """Whether the first row has columns, set apart by more than spaces."""
    if "{" in first:
        return False
    fields = first.split()
    plain = len(fields) == 2 or (len(fields) == 3 and is_number(fields[2]))
    return "," in first or ";" in first or ("\t" in first.strip() and not plain)


def _declared(header: _Header) -> Iterator[str]:
    """Return the nodes of KONECT, which are numbered from 1, on each side where there are two."""
    if not header.bipartite:
        yield from (f"{i}" for i in range(1, 1 + max(header.sides)))
        return
    for side, count in zip(("left", "right"), header.sides, strict=False):
        yield from (f"{side} {i}" for i in range(1, 1 + count))


def _header(lines: Sequence[str]) -> _Header:
    """Read the comments before the first link."""
    found = _Header()
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith(_COMMENTS):
            break
        if way := _KONECT.match(line):
            found.form, kind = "KONECT", way[1].lower()
            found.directed, found.bipartite = kind == "asym", kind == "bip"
        elif found.form == "KONECT" and (counts := _COUNTS.fullmatch(line)):
            numbers = [int(text) for text in counts[1].split()]
            found.links, found.sides, found.line = numbers[0], tuple(numbers[1:3]), number
        elif way := _SNAP_WAY.match(line):
            found.form, found.directed = "edge list of SNAP", way[1].lower() == "directed"
        elif counts := _SNAP_COUNTS.match(line):
            found.form = "edge list of SNAP"
            found.nodes, found.links, found.line = int(counts[1]), int(counts[2]), number
    return found


def _row(line: str, header: _Header, number: int) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return the ends of a link and what it carries.

    Args:
        line: The line, without a comment behind it.
        header: What the comments announce.
        number: Of the line.
    """
    head, brace, tail = line.partition("{")
    fields = [field for field in re.split(r"[\s,;]+" if brace else r"\s+", head) if field]
    most = 2 if brace else 4 if header.form == "KONECT" else 3
    if not 2 <= len(fields) <= most:
        expected = "two nodes and {...}" if brace else "two nodes, and perhaps a weight"
        raise Unreadable(f"it reads {shown(line)}", expected, number)
    one, other = fields[:2]
    if header.bipartite:  # numbered from 1 on either side
        one, other = f"left {one}", f"right {other}"
    data = _literal(brace + tail, number) if brace else {}
    if len(fields) > 2:
        data[WEIGHT] = decimal(fields[2], "the weight", number)
    if len(fields) > 3:
        data["timestamp"] = decimal(fields[3], "the time", number)
    return (one, other), data


def _literal(text: str, number: int) -> dict[str, Any]:
    """Read attributes as networkx writes them: a dictionary of Python's literals."""
    try:
        # The writer spells these as numbers, which they are not for Python.
        found = ast.literal_eval(re.sub(r"(?<=: )(nan|-?inf)(?=[,}])", r"'\1'", text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise Unreadable(f"its attributes read {shown(text)}", "such as {'weight': 0.5}", number)
    return cast("dict[str, Any]", found)
