"""Pajek's ``.net``: vertices by number, then sections of arcs (one way) and edges (both ways).

networkx lets the order of the sections decide about directions, and takes vertices of one label
for one; here a section counts for its own lines, and vertices are their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from decentral import limits
from decentral.topology.files.content import WEIGHT, Content, Unreadable, decimal, shown, whole

_FIELD = re.compile(r'"([^"]*)"|(\S+)')
_SECTIONS = "*Vertices, *Arcs, *Edges, *Arcslist, *Edgeslist or *Matrix"


@dataclass
class _Reading:
    """Where the reader stands: the section, and what it has found."""

    content: Content = field(default_factory=lambda: Content("Pajek"))
    section: str = ""
    count: int = 0
    labels: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    arcs: bool = False  # whether anything can go one way
    row: int = 0


def read_pajek(text: str) -> Content:
    """Read one network; raises Unreadable for sections of other objects of Pajek."""
    reading = _Reading()
    number = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("%"):
            continue
        if line.lstrip().startswith("*"):
            _begin(reading, line.split(), number)
        elif not reading.count:
            raise Unreadable(f"it reads {shown(line)}", "*Vertices and their number", number)
        else:
            _READERS[reading.section](reading, _fields(line, number), number)
    content = reading.content
    if reading.section == "*matrix" and reading.row != reading.count:
        expected = f"{reading.count} rows of the matrix"
        raise Unreadable(f"the file ends after {reading.row}", expected, number)
    for vertex in range(1, reading.count + 1):
        content.add_node(vertex, reading.labels.get(vertex, {}))
    content.check()
    return content


def _fields(line: str, number: int) -> list[str]:
    if line.count('"') % 2:
        raise Unreadable(f"it reads {shown(line)}", "quotes in pairs", number)
    return [found[1] if found[1] is not None else found[2] for found in _FIELD.finditer(line)]


def _begin(reading: _Reading, words: list[str], number: int) -> None:
    """Begin a section; of several relations, ``*Arcs :2 "name"``, all links count.

    Args:
        reading: Where the reader stands.
        words: The line that begins it.
        number: Of the line.
    """
    name = words[0].lower()
    if name == "*network" and not reading.count:
        return
    if name == "*vertices" and not reading.count:
        count = words[1] if len(words) > 1 else None
        reading.count = whole(count, "the number of vertices", number, least=1)
        if reading.count > limits.NODES:
            raise Unreadable(
                f"there are {reading.count:,} vertices", f"at most {limits.NODES:,}", number
            )
    elif name not in _READERS or not reading.count or name == "*vertices":
        raise Unreadable(f"a section {words[0]} begins", f"one network: {_SECTIONS}", number)
    reading.section = name
    if name in ("*arcs", "*arcslist", "*matrix"):
        reading.content.directed = True


def _vertex(reading: _Reading, fields: list[str], number: int) -> None:
    vertex = _place(reading, fields[0], number)
    if vertex in reading.labels:
        raise Unreadable(f"vertex {vertex} is there again", "every vertex once", number)
    reading.labels[vertex] = {"label": fields[1]} if len(fields) > 1 else {}


def _place(reading: _Reading, text: str, number: int) -> int:
    vertex = whole(text, "a vertex", number, least=1)
    if vertex > reading.count:
        expected = f"a number from 1 to {reading.count}"
        raise Unreadable(f"there is no vertex {vertex}", expected, number)
    return vertex


def _line(reading: _Reading, fields: list[str], number: int) -> None:
    """Read ``1 2 0.5 l "a label"``: two vertices, a value, and how the line is drawn.

    Args:
        reading: Where the reader stands.
        fields: The line.
        number: Of the line.
    """
    if len(fields) < 2:
        raise Unreadable("an end of the link is missing", "two vertices", number)
    ends = _place(reading, fields[0], number), _place(reading, fields[1], number)
    data: dict[str, Any] = dict(_pairs(fields[3:]))
    if len(fields) > 2:
        data[WEIGHT] = decimal(fields[2], "the value of a line", number)
    reading.content.add_link(ends, data, number, reading.section == "*arcs")


def _pairs(fields: list[str]) -> Iterator[tuple[str, str]]:
    return zip(fields[::2], fields[1::2], strict=False)


def _list(reading: _Reading, fields: list[str], number: int) -> None:
    """Read ``1 2 3``: a vertex, and all that it leads to.

    Args:
        reading: Where the reader stands.
        fields: The line.
        number: Of the line.
    """
    one = _place(reading, fields[0], number)
    for text in fields[1:]:
        ends = one, _place(reading, text, number)
        reading.content.add_link(ends, {}, number, reading.section == "*arcslist")


def _row(reading: _Reading, fields: list[str], number: int) -> None:
    """Read a row of a matrix: what leads from one vertex to all, 0 being no line.

    Args:
        reading: Where the reader stands.
        fields: The line.
        number: Of the line.
    """
    reading.row += 1
    if len(fields) != reading.count or reading.row > reading.count:
        found = f"row {reading.row} has {len(fields)} entries"
        raise Unreadable(found, f"{reading.count} rows of {reading.count}", number)
    for column, text in enumerate(fields, start=1):
        value = decimal(text, "an entry", number)
        if value:
            reading.content.add_link((reading.row, column), {WEIGHT: value}, number, True)


_READERS = {
    "*vertices": _vertex,
    "*arcs": _line,
    "*edges": _line,
    "*arcslist": _list,
    "*edgeslist": _list,
    "*matrix": _row,
}
