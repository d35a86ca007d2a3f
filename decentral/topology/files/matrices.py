"""Matrices as graphs, and the files that hold them: those of numpy and scipy,
Matrix Market.

Matrix Market, a header, sizes, and an entry in each line, is read here and not by
scipy, whose reader does not survive every damaged file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from decentral import limits
from decentral.errors import in_words
from decentral.topology.files.content import (
    MOST_BYTES,
    WEIGHT,
    Content,
    Unreadable,
    decimal,
    quote_value,
    whole,
)

# --- files of numpy and scipy -----------------------------------------------------


_ROUNDING = 1e-6
#: Names of the matrix where a file of numpy's holds other arrays, too.
_NAMED = ("adjacency", "adj", "A", "W", "weights", "adj_matrix", "arr_0")

Array = NDArray[Any]
T = TypeVar("T")


def of_entries(
    form: str, nodes: int, entries: Sequence[tuple[int, int, float]], pattern: bool
) -> Content:
    """Return the graph of entries (row, column, value), its nodes numbered from 0.

    Args:
        form: What the file is, in words.
        nodes: Rows of the matrix.
        entries: Those that are not 0, or of a sparse matrix all that are written.
        pattern: Whether values say nothing.
    """
    row, column = (np.array([entry[at] for entry in entries], np.int64) for at in (0, 1))
    values = np.array([value for _, _, value in entries], np.float64)
    return _content(form, nodes, row, column, None if pattern else values)


def of_rows(
    form: str, rows: Sequence[Sequence[float]], labels: Sequence[str] | None
) -> Content:
    """Return the graph of a matrix in rows, its nodes labelled or numbered from 0.

    Args:
        form: What the file is, in words.
        rows: Of the matrix.
        labels: Of the nodes; None: their numbers.
    """
    return _of_dense(form, np.array(rows, dtype=np.float64), labels)


def _of_dense(form: str, matrix: Array, labels: Sequence[str] | None = None) -> Content:
    _check_shape(matrix.shape)
    row, column = np.nonzero(matrix)
    return _content(form, len(matrix), row, column, matrix[row, column], labels)


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        size = " x ".join(map(str, shape)) or "one number"
        raise Unreadable(f"its matrix is {size}", "a square one")
    if shape[0] > limits.NODES:
        raise Unreadable(f"its matrix has {shape[0]:,} rows", f"at most {limits.NODES:,}")


def _content(
    form: str, nodes: int, row: Array, column: Array, values: Array | None,
    labels: Sequence[str] | None = None,
) -> Content:  # fmt: skip
    """Return the graph of the entries of a matrix.

    Args:
        form: What the file is, in words.
        nodes: Rows of the matrix.
        row: Of each entry [entries].
        column: Of each entry [entries].
        values: The entries [entries]; None: a pattern.
        labels: Of the nodes; None: their numbers.
    """
    if values is not None and np.iscomplexobj(values):
        raise Unreadable("its entries are complex numbers", "real ones")
    plain = values is None or bool(np.all(values == 1))
    content = Content(form)
    for node in range(nodes):
        content.add_node(node, {} if labels is None else {"label": labels[node]})
    numbers = np.ones(len(row)) if values is None else values.astype(np.float64)
    sums = np.bincount(row, weights=numbers, minlength=nodes)
    # Rows that sum to 1 are mixing weights W_ij, of what i receives from j: the
    # link leads from the column to the row. Elsewhere an entry leads from its row
    # to its column.
    if not plain and bool(np.all(np.abs(sums - 1) < _ROUNDING)):
        row, column = column, row
    symmetric = _is_symmetric(row, column, numbers)
    content.directed = not symmetric
    for one, other, value in zip(
        row.tolist(), column.tolist(), numbers.tolist(), strict=True
    ):
        # Each link of a symmetric matrix stands there twice.
        if one <= other or not symmetric:
            content.add_link((one, other), {} if plain else {WEIGHT: value})
    content.check()
    return content


def _is_symmetric(row: Array, column: Array, values: Array) -> bool:
    """Whether every entry stands on either side of the diagonal, as often as it
    stands there.

    Args:
        row: Of each entry [entries].
        column: Of each entry [entries].
        values: The entries [entries].
    """
    here, there = np.lexsort((values, column, row)), np.lexsort((values, row, column))
    pairs = ((row, column), (column, row), (values, values))
    return all(np.array_equal(a[here], b[there], equal_nan=True) for a, b in pairs)


# --- files ------------------------------------------------------------------------


def read_numpy(data: bytes) -> Content:
    """Read a matrix of numpy, dense, or of scipy, sparse; nothing in the file is
    unpickled.
    """
    _check_size(data)
    loaded = _from_library(lambda: _arrays(data))
    if isinstance(loaded, np.ndarray):
        return _of_dense("numpy", _numbers(loaded))
    made = _from_library(lambda: _sparse(data, loaded))
    if made is not None:
        _check_shape(made.shape)
        _numbers(made.data)
        return _content("scipy", made.shape[0], made.row, made.col, made.data)
    for name, array in loaded.items():
        # Of other members numpy gives the bytes, as of spreadsheets, which are
        # archives.
        if not isinstance(array, np.ndarray):
            raise Unreadable(
                f"it is an archive and holds {name}, which is no array of numpy",
                "a matrix of numpy or scipy; what other archives hold is unpacked first",
            )
    named = (
        [name for name in _NAMED if name in loaded] if len(loaded) > 1 else list(loaded)
    )
    if not named:
        held = ", ".join(sorted(loaded)[:6]) or "nothing"
        raise Unreadable(
            f"it holds {held}", f"one matrix, or one named {', '.join(_NAMED[:4])}"
        )
    return _of_dense("numpy", _numbers(loaded[named[0]]))


def _from_library(load: Callable[[], T]) -> T:
    """Return what numpy or scipy load; raises Unreadable, whatever they raise.

    Damaged bytes pass through zip files, headers that are parsed as Python and
    index arithmetic: there is no list of what these may raise.
    """
    try:
        return load()
    except Exception as error:
        expected = "a matrix of numbers that numpy or scipy has saved"
        raise Unreadable(
            f"it cannot be read ({in_words(error, 160)})", expected
        ) from error


def _check_size(data: bytes) -> None:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    # Looked at before it is unpacked: a few kilobytes may hold gigabytes of zeros.
    archive = _from_library(lambda: zipfile.ZipFile(io.BytesIO(data)))
    if sum(item.file_size for item in archive.infolist()) > MOST_BYTES:
        raise Unreadable(
            "it is larger than that", f"at most {MOST_BYTES >> 20} MiB, unpacked"
        )


def _numbers(array: Array) -> Array:
    if array.dtype.kind not in "biufc":
        raise Unreadable(f"its entries are of type {array.dtype}", "numbers")
    return array


def _arrays(data: bytes) -> Array | dict[str, Any]:
    loaded: Any = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    return {name: loaded[name] for name in loaded.files}


def _sparse(data: bytes, arrays: Mapping[str, Array]) -> Any:
    """Return a sparse matrix by coordinates, None where the arrays are no parts of
    one.
    """
    from scipy import sparse

    made: Any = None
    if {"format", "shape"} <= arrays.keys():
        made = sparse.load_npz(io.BytesIO(data))
    elif prefix := [
        name.removesuffix("indptr") for name in arrays if name.endswith("indptr")
    ]:
        parts = [arrays[prefix[0] + part] for part in ("data", "indices", "indptr")]
        shape = np.asarray(arrays[prefix[0] + "shape"]).tolist()
        made = sparse.csr_array(tuple(parts), shape=tuple(shape))
    if made is not None and hasattr(made, "check_format"):
        made.check_format(full_check=True)  # or indices may lead anywhere
    return None if made is None else made.tocoo()


# --- Matrix Market ----------------------------------------------------------------


_LAYOUTS = ("coordinate", "array")
_FIELDS = ("real", "double", "integer", "unsigned-integer", "pattern")
_SYMMETRIES = ("general", "symmetric", "skew-symmetric")
_HEADER = (
    "%%MatrixMarket matrix coordinate real general, or another layout, field and symmetry"
)

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
    """Read a real matrix, sparse or dense, as the graph that ``of_entries`` makes
    of it.
    """
    first, *rest = text.split("\n")
    kind = _kind(first.lower().split())
    lines = [
        (number, line.split())
        for number, line in enumerate(rest, start=2)
        if line.strip() and not line.startswith("%")
    ]
    if not lines:
        raise Unreadable(
            "the file ends too early", "the size of the matrix", 1 + len(rest)
        )
    (at, sizes), body = lines[0], lines[1:]
    wanted = 3 if kind.layout == "coordinate" else 2
    if len(sizes) != wanted:
        expected = "rows, columns and entries" if wanted == 3 else "rows and columns"
        raise Unreadable(f"it reads {quote_value(' '.join(sizes))}", expected, at)
    rows, columns, *_ = numbers = [whole(size, "a size", at) for size in sizes]
    if rows != columns:
        raise Unreadable(f"its matrix is {rows} x {columns}", "a square one", at)
    # Before anything of that size is made.
    if rows > limits.NODES:
        raise Unreadable(f"its matrix has {rows:,} rows", f"at most {limits.NODES:,}", at)
    sparse = kind.layout == "coordinate"
    places = None if sparse else _places(rows, kind.symmetry)
    announced = numbers[2] if sparse else _size(rows, kind.symmetry)
    # Counted first: a file that was cut between two lines shows nothing else.
    if len(body) != announced:
        found = f"{announced:,} entries are announced, and {len(body):,} follow"
        raise Unreadable(found, "a line for each", at)
    entries = (
        _coordinates(body, kind, rows) if places is None else _array(body, kind, places)
    )
    return of_entries("Matrix Market", rows, entries, kind.field == "pattern")


def _kind(words: list[str]) -> _Kind:
    known = (("%%matrixmarket",), ("matrix",), _LAYOUTS, _FIELDS, _SYMMETRIES)
    if len(words) != len(known) or any(
        w not in k for w, k in zip(words, known, strict=True)
    ):
        raise Unreadable(f"it reads {quote_value(' '.join(words))}", _HEADER, 1)
    return _Kind(*words[2:])


def _coordinates(body: Lines, kind: _Kind, size: int) -> list[Entry]:
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
            raise Unreadable(
                f"it reads {quote_value(' '.join(fields))}", expected, number
            )
        row, column = (whole(field, "a place", number, least=1) for field in fields[:2])
        if max(row, column) > size:
            expected = f"places from 1 to {size}"
            raise Unreadable(f"there is no place {max(row, column)}", expected, number)
        value = 1.0 if width == 2 else decimal(fields[2], "an entry", number)
        found += kind.both(row - 1, column - 1, value)
    return found


def _array(body: Lines, kind: _Kind, places: Iterator[tuple[int, int]]) -> list[Entry]:
    """Return what is not 0 of a column after the other, of symmetric ones the lower
    half.

    Args:
        body: Lines after the sizes, with their numbers.
        kind: What the header says.
        places: Row and column of each value, in the order of the file.
    """
    found: list[Entry] = []
    for (row, column), (number, fields) in zip(places, body, strict=True):
        if len(fields) != 1:
            raise Unreadable(
                f"it reads {quote_value(' '.join(fields))}", "one value", number
            )
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
