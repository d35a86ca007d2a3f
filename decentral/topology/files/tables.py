"""Links in rows: tables (CSV) of links or of a matrix; lists of SNAP, KONECT and
networkx.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from decentral import limits
from decentral.topology.files import matrices
from decentral.topology.files.content import (
    WEIGHT,
    Content,
    Unreadable,
    decimal,
    is_number,
    quote_value,
    wanted_number,
)
from decentral.units import without_comma

# --- tables -----------------------------------------------------------------------


#: What the columns of the ends of a link are called, in any case, without spaces, -
#: and _.
_SOURCES = ("source", "src", "from", "fromnode", "fromnodeid", "fromid", "tail", "u", "node1",
            "id1", "nodeid1", "i", "start", "sender")  # fmt: skip
_TARGETS = ("target", "dst", "dest", "destination", "to", "tonode", "tonodeid", "toid", "head",
            "v", "node2", "id2", "nodeid2", "j", "end", "receiver")  # fmt: skip
#: The column in which Gephi writes whether a link goes one way.
_WAYS = {"directed": True, "undirected": False}
#: A comma comes last: it also stands in names and numbers, the others seldom do.
_DELIMITERS = ("\t", ";", ",")
#: By its first line Excel tells itself what sets cells apart.
_SEPARATOR = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
#: Columns that say what a link carries, by their names as ``_names`` compares them.
_CARRIED = {
    "".join(c for c in name.lower() if c not in " -_"): name
    for name in (WEIGHT, "type", "latency", "latency_s", "bandwidth", "bandwidth_Bps")
}
#: Columns from which a table without a header is taken for a matrix.
_MATRIX = 4


@dataclass(frozen=True)
class Row:
    """A row of a table, and the line where it ends."""

    cells: list[str]
    line: int


def read_table(text: str, directed: bool | None = None) -> Content:
    """Read a table whose columns are named, or are two nodes and perhaps a weight.

    Args:
        text: The file.
        directed: Whether links go one way; None: as a column ``type`` says, else
            no.
    """
    rows = _rows(text)
    if not rows:
        raise Unreadable("it holds no row", "a row for every link", 1)
    width = len(rows[0].cells)
    for row in rows:
        if len(row.cells) != width:
            expected = f"{width} as in line {rows[0].line}"
            raise Unreadable(f"it has {len(row.cells)} columns", expected, row.line)
    rows = _without_empty_columns(rows)
    if _is_matrix(rows):
        return _matrix(rows)
    names = _names(rows)
    content = Content("table", directed=bool(directed), declares=False)
    for row in rows[bool(names) :]:
        _add(
            content,
            dict(zip(names or _default_columns(rows[0]), row.cells, strict=True)),
            row.line,
        )
    content.check()
    return content


def _rows(text: str) -> list[Row]:
    lines = [
        line if not line.lstrip().startswith(("#", "%")) else ""
        for line in text.split("\n")
    ]
    first = next((line for line in lines if line.strip()), "")
    if said := _SEPARATOR.fullmatch(first.strip(" ")):
        delimiter = said[1]
        lines[lines.index(first)] = ""
    else:
        delimiter = _delimiter([line for line in lines if line.strip()])
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    found: list[Row] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                found.append(Row(stripped, reader.line_num))
    except csv.Error as error:
        raise Unreadable(
            f"it is no table here ({error})", "quotes in pairs", reader.line_num
        ) from None
    return found


def _delimiter(lines: Sequence[str]) -> str:
    """Return what sets cells apart: what stands in every line as often, else most
    often in the first.
    """
    even = [mark for mark in _DELIMITERS if len({line.count(mark) for line in lines}) == 1
            and mark in lines[0]]  # fmt: skip
    if even:
        return even[0]
    # Labels further down may hold commas of their own.
    return max(_DELIMITERS, key=lambda mark: lines[0].count(mark) if lines else 0)


def _without_empty_columns(rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows without the last columns where no cell is filled in, which
    spreadsheets write.
    """
    width = max(at for row in rows for at, cell in enumerate(row.cells, 1) if cell)
    return [Row(row.cells[:width], row.line) for row in rows]


# --- columns ----------------------------------------------------------------------


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns, nothing where the first row is a link."""
    first = rows[0]
    plain = ["".join(c for c in name.lower() if c not in " -_") for name in first.cells]
    one = [at for at, name in enumerate(plain) if name in _SOURCES]
    other = [at for at, name in enumerate(plain) if name in _TARGETS]
    # Columns without a header, whose nodes happen to be called u and v.
    if one and other and _recur(rows, (one[0], other[0])):
        return []
    if not (one and other):
        if _is_header(rows):
            expected = "a header that names two columns source and target"
            comma = next(filter(without_comma, first.cells), None)
            expected = expected if comma is None else wanted_number(comma)
            row = (", " if comma is None else "; ").join(first.cells)
            raise Unreadable(f"it reads {quote_value(row)}", expected, first.line)
        return []
    if len(set(plain)) < len(plain):
        raise Unreadable("two columns have one name", "a name for each", first.line)
    names = [
        _CARRIED.get(key, name) for key, name in zip(plain, first.cells, strict=True)
    ]
    names[one[0]], names[other[0]] = "source", "target"
    return names


def _recur(rows: Sequence[Row], columns: tuple[int, int]) -> bool:
    """Whether names of columns are nodes of other rows, too: u and v may be either."""
    names = {rows[0].cells[at] for at in columns}
    return any(row.cells[at] in names for row in rows[1:] for at in columns)


def _is_header(rows: Sequence[Row]) -> bool:
    """Whether the first row is a header of unknown names: text over columns of
    numbers.
    """
    first, rest = rows[0].cells, [row.cells for row in rows[1:]]
    texts = [at for at, cell in enumerate(first) if not is_number(cell)]
    return any(rest and all(is_number(cells[at]) for cells in rest) for at in texts)


def _default_columns(first: Row) -> list[str]:
    width = len(first.cells)
    if width not in (2, 3):
        expected = "two nodes, and perhaps a weight, or a header that names the columns"
        raise Unreadable(f"it has {width} columns", expected, first.line)
    return ["source", "target", WEIGHT][:width]


def _add(content: Content, cells: dict[str, str], line: int) -> None:
    one, other = cells.pop("source"), cells.pop("target")
    if not one or not other:
        raise Unreadable("an end of the link is missing", "two nodes", line)
    data: dict[str, Any] = {key: value for key, value in cells.items() if value}
    if WEIGHT in data:
        data[WEIGHT] = decimal(data[WEIGHT], "the weight", line)
    way = str(data.get("type", "")).lower()
    content.add_link((one, other), data, line, _WAYS.get(way))


# --- matrices ---------------------------------------------------------------------


def _is_matrix(rows: Sequence[Row]) -> bool:
    """Whether there are as many columns as rows, of numbers, or both are labelled
    alike.
    """
    first = rows[0].cells
    if not first[0] and len(first) > 1:  # as pandas writes it
        return first[1:] == [row.cells[0] for row in rows[1:]]
    # Smaller squares of numbers are more often three links with a weight.
    square = len(first) == len(rows) >= _MATRIX
    numbers = (
        is_number(cell) or without_comma(cell) for row in rows for cell in row.cells
    )
    return square and all(numbers)


def _matrix(rows: Sequence[Row]) -> Content:
    labels = None if rows[0].cells[0] else rows[0].cells[1:]
    body = rows if labels is None else [Row(row.cells[1:], row.line) for row in rows[1:]]
    values = [[decimal(cell, "an entry", row.line) for cell in row.cells] for row in body]
    return matrices.of_rows("table, a matrix", values, labels)


# --- lists ------------------------------------------------------------------------


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
    """Read a list of links: two nodes in a line, and perhaps a weight or
    ``{'weight': 0.5}``.

    Args:
        text: The file; a list with commas, semicolons or columns is read as a
            table.
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
        for name in _konect_nodes(header):
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
    if len(fields) == 3 and without_comma(fields[2]) and "," not in fields[0] + fields[1]:
        return False  # a weight with a decimal comma, for which there is a message
    plain = len(fields) == 2 or (len(fields) == 3 and is_number(fields[2]))
    return "," in first or ";" in first or ("\t" in first.strip() and not plain)


def _konect_nodes(header: _Header) -> Iterator[str]:
    """Return the nodes of KONECT, which are numbered from 1, on each side where
    there are two.
    """
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


def _row(
    line: str, header: _Header, number: int
) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return the ends of a link and what it carries.

    Args:
        line: The line, without a comment behind it.
        header: What the comments announce.
        number: Of the line.
    """
    head, brace, tail = line.partition("{")
    marks = r"[\s,;]+" if brace or header.form == "KONECT" else r"\s+"
    fields = [field for field in re.split(marks, head) if field]
    most = 2 if brace else 4 if header.form == "KONECT" else 3
    if not 2 <= len(fields) <= most:
        expected = "two nodes and {...}" if brace else "two nodes, and perhaps a weight"
        raise Unreadable(f"it reads {quote_value(line)}", expected, number)
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
        raise Unreadable(
            f"its attributes read {quote_value(text)}", "such as {'weight': 0.5}", number
        )
    return cast("dict[str, Any]", found)
