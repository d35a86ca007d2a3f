"""Matrix Market: a header, sizes, and an entry in each line.

Read here and not by scipy, whose reader does not survive every damaged file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from decentral import limits
from decentral.topology.files import matrices
from decentral.topology.files.content import Content, Unreadable, decimal, shown, whole

_LAYOUTS = ("coordinate", "array")
_FIELDS = ("real", "double", "integer", "unsigned-integer", "pattern")
_SYMMETRIES = ("general", "symmetric", "skew-symmetric")
_HEADER = "%%MatrixMarket matrix coordinate real general, or another layout, field and symmetry"

Entry = tuple[int, int, float]
Lines = Sequence[tuple[int, list[str]]]


@dataclass(frozen=True)
class _Kind:
    """What the header says."""

    layout: str
    field: str
    symmetry: str

    def both(self, row: int, column: int, value: float) -> Iterator[Entry]:
        """Return an entry, and its mirror image where only one half is written.

        Args:
            row: Of the entry.
            column: Of the entry.
            value: The entry.
        """
        yield row, column, value
        if self.symmetry != "general" and row != column:
            yield column, row, -value if self.symmetry == "skew-symmetric" else value


def read_matrix_market(text: str) -> Content:
    """Read a real matrix, sparse or dense, as the graph that ``matrices`` makes of it."""
    first, *rest = text.split("\n")
    kind = _kind(first.lower().split())
    lines = [
        (number, line.split())
        for number, line in enumerate(rest, start=2)
        if line.strip() and not line.startswith("%")
    ]
    if not lines:
        raise Unreadable("the file ends too early", "the size of the matrix", 1 + len(rest))
    (at, sizes), body = lines[0], lines[1:]
    wanted = 3 if kind.layout == "coordinate" else 2
    if len(sizes) != wanted:
        expected = "rows, columns and entries" if wanted == 3 else "rows and columns"
        raise Unreadable(f"it reads {shown(' '.join(sizes))}", expected, at)
    rows, columns, *_ = numbers = [whole(size, "a size", at) for size in sizes]
    if rows != columns:
        raise Unreadable(f"its matrix is {rows} x {columns}", "a square one", at)
    if rows > limits.NODES:
        raise Unreadable(f"its matrix has {rows:,} rows", f"at most {limits.NODES:,}", at)
    sparse = kind.layout == "coordinate"
    places = None if sparse else _places(rows, kind.symmetry)
    announced = numbers[2] if sparse else _size(rows, kind.symmetry)
    if len(body) != announced:
        found = f"{announced:,} entries are announced, and {len(body):,} follow"
        raise Unreadable(found, "a line for each", at)
    entries = _sparse(body, kind, rows) if places is None else _dense(body, kind, places)
    return matrices.of_entries("Matrix Market", rows, entries, kind.field == "pattern")


def _kind(words: list[str]) -> _Kind:
    known = (("%%matrixmarket",), ("matrix",), _LAYOUTS, _FIELDS, _SYMMETRIES)
    if len(words) != len(known) or any(w not in k for w, k in zip(words, known, strict=True)):
        raise Unreadable(f"it reads {shown(' '.join(words))}", _HEADER, 1)
    return _Kind(*words[2:])


def _sparse(body: Lines, kind: _Kind, size: int) -> list[Entry]:
    """Return the entries ``row column value``, counted from 0.

    Args:
        body: Lines after the sizes, with their numbers.
        kind: What the header says.
        size: Rows of the matrix.
    """
    found: list[Entry] = []
    width = 2 if kind.field == "pattern" else 3
    for number, fields in body:
        if len(fields) != width:
            expected = "row and column" if width == 2 else "row, column and value"
            raise Unreadable(f"it reads {shown(' '.join(fields))}", expected, number)
        row, column = (whole(field, "a place", number, least=1) for field in fields[:2])
        if max(row, column) > size:
            expected = f"places from 1 to {size}"
            raise Unreadable(f"there is no place {max(row, column)}", expected, number)
        value = 1.0 if width == 2 else decimal(fields[2], "an entry", number)
        found += kind.both(row - 1, column - 1, value)
    return found


def _dense(body: Lines, kind: _Kind, places: Iterator[tuple[int, int]]) -> list[Entry]:
    """Return what is not 0 of a column after the other, of symmetric ones the lower half.

    Args:
        body: Lines after the sizes, with their numbers.
        kind: What the header says.
        places: Row and column of each value, in the order of the file.
    """
    found: list[Entry] = []
    for (row, column), (number, fields) in zip(places, body, strict=True):
        if len(fields) != 1:
            raise Unreadable(f"it reads {shown(' '.join(fields))}", "one value", number)
        value = decimal(fields[0], "an entry", number)
        if value:
            found += kind.both(row, column, value)
    return found


def _places(size: int, symmetry: str) -> Iterator[tuple[int, int]]:
    firsts = {"general": 0, "symmetric": 1, "skew-symmetric": 1}
    for column in range(size):
        first = column * firsts[symmetry] + (symmetry == "skew-symmetric")
        yield from ((row, column) for row in range(first, size))


def _size(size: int, symmetry: str) -> int:
    """Return the entries of a dense matrix that are written."""
    if symmetry == "general":
        return size * size
    return size * (size + 1) // 2 if symmetry == "symmetric" else size * (size - 1) // 2
