"""Parquet files of encoded images: which belong to which split, and their rows,
each one checked.

Everything that is wrong with a file is said before a run: file, column and row,
what was found there and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError

#: What the names of the files of each split begin with; ``values`` is no
#: validation.
_SPLITS = {
    "train": re.compile("train"),
    "val": re.compile(r"(val|valid|validation|dev)(?![a-z])"),
    "test": re.compile("test"),
}
#: What a folder is called whose files are a split, as the hub converts its data
#: sets.
_FOLDERS = {
    "train": re.compile(r"(partial-)?train(ing)?"),
    "val": re.compile(r"(partial-)?(val|valid|validation|dev)"),
    "test": re.compile(r"(partial-)?test(ing)?"),
}
#: Columns that hold images and labels, as the data sets of the hub name them.
_IMAGES, _LABELS = ("image", "img"), ("label", "fine_label", "labels")
#: Rows read at a time.
ROWS = 1024
#: The first bytes of what stands for a file that git-LFS has not fetched.
_LFS = b"version https://git-lfs"
_LABEL = "a whole number or a text"

Label = int | str


class Unfit(Exception):
    """What a file holds and what it should: whoever knows where adds that."""

    def __init__(self, found: str, expected: str) -> None:
        """Keep both parts.

        Args:
            found: What is there.
            expected: What should be.
        """
        super().__init__(f"{found}; expected {expected}")


@dataclass(frozen=True)
class Row:
    """An encoded image, its label, and where they stand, for messages."""

    image: bytes
    label: Label
    where: str  # file and row, up to the column


@dataclass
class Folder:
    """The files of each split in a folder, and what is to be said about them."""

    files: dict[str, list[Path]]
    notes: list[str] = field(default_factory=list[str])


# --- where the files are ----------------------------------------------------------


def find_splits(name: str, folder: Path) -> Folder:
    """Return the files of each split: by their names, else by that of a folder they
    lie in.

    Files for validation are the test where there is no other: data sets of the hub
    often keep the labels of their test to themselves.

    Args:
        name: Of the task, for messages.
        folder: Where the files lie, at any depth.
    """
    known = sorted(folder.rglob("*.parquet"))
    found = Folder({split: [] for split in _SPLITS})
    homes: dict[str, set[str]] = {}
    for file in known:
        inside = file.relative_to(folder)
        split, home = _split_of(inside)
        if split:
            found.files[split].append(file)
            homes.setdefault(split, set()).add(home)
        else:
            found.notes.append(
                f"task {name!r}: {inside} is left aside: its name tells no split."
            )
    _refuse_several(name, folder, homes)
    if not found.files["test"] and found.files["val"]:
        found.files["test"], found.files["val"] = found.files["val"], []
        first = found.files["test"][0].relative_to(folder)
        found.notes.append(
            f"task {name!r}: no test*.parquet in {folder}; {first} is the test set."
        )
    for split in ("train", "test"):
        if not found.files[split]:
            raise ConfigError(
                f"task {name!r}: no {split}*.parquet in {folder}; path= must name a folder with "
                "train*.parquet and test*.parquet, images encoded in a column 'image'."
            )
    found.files = {split: each for split, each in found.files.items() if each}
    return found


def _split_of(inside: Path) -> tuple[str, str]:
    """Return the split of a file, and the folder of its data set, which holds other
    splits, too.
    """
    for split, begins in _SPLITS.items():
        if begins.match(inside.name):
            return split, str(inside.parent)
    for parent in inside.parents:
        for split, called in _FOLDERS.items():
            if called.fullmatch(parent.name):
                return split, str(parent.parent)
    return "", ""


def _refuse_several(name: str, folder: Path, homes: dict[str, set[str]]) -> None:
    """Raise ConfigError where a split lies in two folders: those are two data sets."""
    for split, places in homes.items():
        if len(places) > 1:
            first, second, *_ = sorted(places)
            raise ConfigError(
                f"task {name!r}: {folder} holds {split} files in {len(places)} folders, such as "
                f"{first} and {second}; expected one data set: name one of them by path=."
            )


# --- what they hold ---------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A parquet file, opened, whose columns hold what they should."""

    name: str  # within the folder
    file: Any
    image: str
    label: str

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.file.metadata.num_rows)


def open_table(task: str, path: Path, folder: Path) -> Table:
    """Open a file and check its columns; raises ConfigError.

    Args:
        task: Name of the task, for messages.
        path: The file.
        folder: That it lies in, for messages.
    """
    inside = str(path.relative_to(folder))
    try:
        file = _open_table(path)
        names: list[str] = file.schema_arrow.names
        image, label = (_column(names, known) for known in (_IMAGES, _LABELS))
        _check_images(file.schema_arrow.field(image))
        _check_labels(file.schema_arrow.field(label))
    except Unfit as error:
        raise ConfigError(f"task {task!r}: {inside}{error}.") from error
    return Table(inside, file, image, label)


def _open_table(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as opened:
        head = opened.read(len(_LFS))
    if not head:
        raise Unfit(" is empty", "a parquet file")
    if head == _LFS:
        expected = "the file itself, which `git lfs pull` fetches"
        raise Unfit(" is a pointer of git-LFS", expected)
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).split(".")[0].splitlines()[0]
        raise Unfit(f" cannot be read ({reason})", "a whole parquet file") from error


def _column(names: Sequence[str], known: Sequence[str]) -> str:
    for column in known:
        if column in names:
            return column
    raise Unfit(
        f" has the columns {', '.join(names) or 'none'}",
        f"one called {' or '.join(known)}",
    )


def _check_images(column: Any) -> None:
    from pyarrow import types

    kind = column.type
    if types.is_struct(kind):
        inner = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
        kind = inner.get("bytes", kind)
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind)):
        raise Unfit(
            f", column {column.name!r}, is of type {column.type}",
            "encoded images: bytes, or a struct that holds them as 'bytes'",
        )


def _check_labels(column: Any) -> None:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    taken = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    texts = (types.is_string, types.is_large_string)
    if not any(is_one(kind) for is_one in (*taken, *texts)):
        raise Unfit(
            f", column {column.name!r}, is of type {column.type}", f"{_LABEL} in each row"
        )


def read_rows(task: str, tables: Sequence[Table]) -> Iterator[Row]:
    """Yield all rows of tables in order; raises ConfigError for a row that holds
    none.

    Args:
        task: Name of the task, for messages.
        tables: Of one split.
    """
    for table in tables:
        place = 0
        try:
            for images, labels in _batches(table):
                for encoded, label in zip(images, labels, strict=True):
                    where = f"task {task!r}: {table.name}, row {place}"
                    image, read = _image(table, encoded), _label(table, label)
                    yield Row(image, read, where)
                    place += 1
        except Unfit as error:
            raise ConfigError(
                f"task {task!r}: {table.name}, row {place}{error}."
            ) from error


def _batches(table: Table) -> Iterator[tuple[list[Any], list[Any]]]:
    import pyarrow

    columns = [table.image, table.label]
    try:
        for batch in table.file.iter_batches(ROWS, columns=columns):
            images, labels = (batch.column(name).to_pylist() for name in columns)
            yield images, labels
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Unfit(
            f" and on, cannot be read ({reason})", "a whole parquet file"
        ) from error


def _image(table: Table, value: Any) -> bytes:
    """Return the bytes of an image, in a column or beside its path."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data
    path = value.get("path") if isinstance(value, dict) else None
    beside = f" beside the path {path!r}" if path else ""
    expected = (
        "the encoded image itself, not where it lies" if path else "an encoded image"
    )
    raise Unfit(f", column {table.image!r}, is null{beside}", expected)


def _label(table: Table, value: Any) -> Label:
    """Return a label as a number or a text: 3.0 and true are numbers, too."""
    if isinstance(value, str):
        return value
    whole = isinstance(value, bool | int) or (
        isinstance(value, float) and value.is_integer()
    )
    # What int64 holds, which targets are.
    if whole and -(2**63) <= value < 2**63:
        return int(value)
    shown = "null" if value is None else repr(value)
    raise Unfit(f", column {table.label!r}, is {shown}", _LABEL)


# --- labels of all splits ---------------------------------------------------------


def check_labels(
    task: str,
    found: Mapping[str, Sequence[Label]],
    places: Mapping[str, Sequence[Table]],
    classes: Sequence[str] | None,
) -> None:
    """Raise ConfigError for labels that no class can be, by file and row.

    Args:
        task: Name of the task, for messages.
        found: The labels of every split, in the order of its rows.
        places: The tables of every split.
        classes: The names of the classes, where the files say them.
    """
    first, known = type(found["train"][0]), set(found["train"])
    for split, labels in found.items():
        for row, label in enumerate(labels):
            if type(label) is not first:
                kind = "a text" if first is str else "a whole number"
                expected = f"{kind}, as in the first row of train"
            elif classes and (
                label not in classes if first is str else label >= len(classes)  # type: ignore[operator]
            ):
                expected = f"one of the {len(classes)} classes that the file names"
            elif isinstance(label, int) and label < 0 and label not in known:
                expected = (
                    "a label that train has (where labels are secret, serve another "
                    "file as test)"
                )
            else:
                continue
            where, column = _place(places[split], row)
            error = Unfit(f", column {column!r}, is {label!r}", expected)
            raise ConfigError(f"task {task!r}: {where}{error}.")


def number_texts(
    found: Mapping[str, Sequence[Label]], classes: Sequence[str] | None
) -> tuple[Mapping[str, Sequence[Label]], list[str] | None]:
    """Return labels that are texts as numbers, and their names: those of the files,
    else sorted.

    Args:
        found: The labels of every split; numbers stay.
        classes: The names of the classes, where the files say them.
    """
    if isinstance(found["train"][0], int):
        return found, None
    names = list(
        classes or sorted({str(label) for labels in found.values() for label in labels})
    )
    number = {name: place for place, name in enumerate(names)}
    return {
        split: [number[str(one)] for one in labels] for split, labels in found.items()
    }, names


def _place(tables: Sequence[Table], row: int) -> tuple[str, str]:
    """Return file and row, and the column of labels, of a row of a split."""
    for table in tables:
        if row < table.rows:
            return f"{table.name}, row {row}", table.label
        row -= table.rows
    raise IndexError(row)


def class_names(table: Table) -> list[str] | None:
    """Return the names of the classes, where the file's metadata hold them."""
    known: dict[bytes, bytes] = table.file.schema_arrow.metadata or {}
    if b"classes" in known:
        return known[b"classes"].decode().split(",")
    try:
        whole = json.loads(known.get(b"huggingface", b"{}"))
        features = whole.get("info", {}).get("features", {})
        return next(
            (f["names"] for k, f in features.items() if k in _LABELS and "names" in f),
            None,
        )
    except (ValueError, AttributeError, TypeError):
        return None  # somebody else's metadata say nothing to us
