"""Formats whose nodes are numbered from 1: METIS, and the ``.net`` of Pajek.

METIS has a line per node with its neighbours; every link stands in two lines. Pajek
has vertices by number, then sections of arcs (one way) and edges (both ways):
networkx lets the order of the sections decide about directions, and takes vertices
of one label for one; here a section counts for its own lines, and vertices are
their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from decentral import limits
from decentral.topology.files.content import (
    WEIGHT,
    Content,
    Unreadable,
    decimal,
    quote_value,
    whole,
)

# --- METIS ------------------------------------------------------------------------


def read_metis(text: str) -> Content:
    """Read the format of METIS, Chaco, KaHIP and the DIMACS challenges; sizes of
    nodes are passed.

    Its first line is ``nodes links [format [weights per node]]``; the format's
    digits say whether nodes have sizes, nodes have weights, and links have weights.
    """
    rows = [
        (number, line.split())
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1)
        if not line.startswith("%")
    ]
    while rows and not rows[0][1]:
        rows.pop(0)
    if not rows:
        raise Unreadable("it is empty", "a line with the numbers of nodes and links", 1)
    (first, header), body = rows[0], rows[1:]
    nodes, links, skipped, weighted = _header(header, first)
    while len(body) > nodes and not body[-1][1]:
        body.pop()
    if len(body) != nodes:
        found = f"{nodes} nodes are announced, and {len(body)} lines follow"
        raise Unreadable(found, "a line for each", first)
    content = Content("METIS")
    for node in range(1, nodes + 1):
        content.add_node(node, {})
    _add_links(content, [(n, _neighbours(f, n, skipped, weighted)) for n, f in body])
    content.check()
    content.check_counts(None, links, first)
    return content


def _header(fields: list[str], line: int) -> tuple[int, int, int, bool]:
    """Return nodes, links, fields before the neighbours, and whether weights follow
    these.
    """
    if not 2 <= len(fields) <= 4:
        expected = "nodes, links and perhaps a format"
        raise Unreadable(f"it reads {quote_value(' '.join(fields))}", expected, line)
    nodes = whole(fields[0], "the number of nodes", line, least=1)
    links = whole(fields[1], "the number of links", line)
    if nodes > limits.NODES:
        raise Unreadable(f"there are {nodes:,} nodes", f"at most {limits.NODES:,}", line)
    code = fields[2].zfill(3) if len(fields) > 2 else "000"
    if len(code) != 3 or set(code) - {"0", "1"}:
        raise Unreadable(
            f"the format is {fields[2]!r}", "up to three digits of 0 and 1", line
        )
    weights = whole(fields[3], "the number of weights", line) if len(fields) > 3 else 1
    return nodes, links, int(code[0]) + int(code[1]) * weights, code[2] == "1"


def _neighbours(
    fields: list[str], line: int, skipped: int, weighted: bool
) -> list[tuple[int, dict[str, Any]]]:
    """Return the neighbours in a line, with what the links carry.

    Args:
        fields: The line.
        line: Its number.
        skipped: Fields before the neighbours: sizes and weights of the node.
        weighted: Whether a weight follows every neighbour.
    """
    rest = fields[skipped:]
    if len(fields) < skipped or (weighted and len(rest) % 2):
        expected = (
            "neighbours, each with a weight" if weighted else f"{skipped} weights first"
        )
        raise Unreadable(f"it has {len(fields)} numbers", expected, line)
    step = 2 if weighted else 1
    return [
        (
            whole(rest[at], "a neighbour", line, least=1),
            {WEIGHT: decimal(rest[at + 1], "the weight", line)} if weighted else {},
        )
        for at in range(0, len(rest), step)
    ]


def _add_links(
    content: Content, lines: list[tuple[int, list[tuple[int, dict[str, Any]]]]]
) -> None:
    """Add every link once; both of its ends must tell of it, and of the same
    weight.
    """
    told: dict[tuple[int, int], list[tuple[dict[str, Any], int]]] = {}
    for node, (line, neighbours) in enumerate(lines, start=1):
        for other, data in neighbours:
            if other > len(lines):
                expected = f"a number from 1 to {len(lines)}"
                raise Unreadable(f"there is no node {other}", expected, line)
            told.setdefault((node, other), []).append((data, line))
    for (one, other), here in told.items():
        there = told.get((other, one), [])
        if sorted(str(data) for data, _ in here) != sorted(
            str(data) for data, _ in there
        ):
            found = f"node {one} tells of a link to {other} otherwise than {other} does"
            raise Unreadable(found, "the link in both lines, with one weight", here[0][1])
        if one <= other:
            for data, line in here:
                content.add_link((one, other), data, line)


# --- Pajek ------------------------------------------------------------------------


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
            raise Unreadable(
                f"it reads {quote_value(line)}", "*Vertices and their number", number
            )
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
        raise Unreadable(f"it reads {quote_value(line)}", "quotes in pairs", number)
    return [
        found[1] if found[1] is not None else found[2] for found in _FIELD.finditer(line)
    ]


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
                f"there are {reading.count:,} vertices",
                f"at most {limits.NODES:,}",
                number,
            )
    elif name not in _READERS or not reading.count or name == "*vertices":
        raise Unreadable(
            f"a section {words[0]} begins", f"one network: {_SECTIONS}", number
        )
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
    """Read ``1 2 0.5 l "a label"``: two vertices, a value, and how the line is
    drawn.

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
