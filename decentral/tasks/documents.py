"""Documents: rows of tables and of data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError, in_words, install_command
from decentral.tasks.cache import cached_folder
from decentral.tasks.corpus import SPLITS, read, split_of
from decentral.tasks.tokens import END, Pieces

#: How the address of a data set of the Hugging Face hub begins.
HUB = "hf://"


def _text_of(row: Mapping[str, Any], where: str, column: str) -> str:
    if isinstance(row.get(column), str):
        return row[column]
    found = repr(row[column])[:40] if column in row else "nothing"
    raise ConfigError(
        f"task 'text': {where} holds {found} in column {column!r}; expected a text: column= must "
        f"be one of {', '.join(row)}."
    )


# --- tables -----------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the text, and the name of its source."""

    text: str
    source: str | None = None


def read_all(
    files: Iterable[Path], encoding: str, separator: str | None, columns: Columns
) -> Pieces:
    """Yield the text of files, each row of a table a document of its own.

    Args:
        files: The files, in order.
        encoding: Encoding of those that are no tables.
        separator: How a line begins that opens a source, in those.
        columns: The columns of tables.
    """
    for file in files:
        if not has_rows(file):
            yield from read([file], encoding, separator)
            continue
        for place, (where, row) in enumerate(read_rows([file], columns.text)):
            text = row[columns.text]
            source = columns.source and row.get(columns.source)
            if columns.source and not isinstance(source, str | int):
                raise ConfigError(
                    f"task 'text': {where} names no source in column {columns.source!r}; domain= "
                    f"must be one of {', '.join(row)}."
                )
            yield str(source or f"{file.name}:{place}"), text + "\n"


def read_rows(
    files: Iterable[Path], column: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of tables, each with where it stands; all have a text.

    Args:
        files: The tables, in order.
        column: The column of their texts.
    """
    for file in files:
        for place, row in enumerate(_refusing(_TABLES[file.suffix.lower()], file)):
            where = f"row {place} of {file}"
            _text_of(row, where, column)
            yield where, row


def _refusing(
    rows: Callable[[Path], Iterator[Mapping[str, Any]]], file: Path
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table; raises ConfigError where it cannot be read."""
    try:
        yield from rows(file)
    except ImportError as error:
        raise ConfigError(
            f"task 'text': {file} needs pyarrow: {install_command('lm')}."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"task 'text': {file} cannot be read ({in_words(error, 100)})."
        ) from error


def _json_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {place}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {place} is no object")
            yield row


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    with parquet.ParquetFile(file) as opened:
        for some in opened.iter_batches(1024):
            yield from some.to_pylist()


def _arrow(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow  # pyright: ignore[reportMissingImports]

    with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as rows:
        for some in rows:
            yield from some.to_pylist()


#: Files of which every row is a document, by what their names end with.
_TABLES: Mapping[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip


def has_rows(file: Path) -> bool:
    """Tell whether the rows of a file are documents."""
    return file.suffix.lower() in _TABLES


def mark_ends(pieces: Pieces, rows: bool) -> Pieces:
    """Put a mark at the end of every document.

    Args:
        pieces: The text.
        rows: Whether every piece is a document; else those of one source are.
    """
    before = None
    for source, piece in pieces:
        piece = piece.replace(END, " ")
        if rows:
            yield source, piece.removesuffix("\n") + END
            continue
        if before not in (None, source):
            yield str(before), END
        before = source
        yield source, piece
    if before is not None:
        yield before, END


# --- the hub ----------------------------------------------------------------------


def hub_splits(address: str, cache: str) -> dict[str, list[str]]:
    """Return what a data set of the hub calls its splits, by what they are here.

    It is asked once, so that a run begins again without the hub. Splits for validation
    are the test where there is no other, as in a folder.
    """

    def ask(made: Path) -> None:
        named = _ask_hub(address, lambda hub, given: hub.get_dataset_split_names(*given))
        (made / "splits.json").write_text(json.dumps(list(named)))

    kept = cached_folder(cache, "splits", [address], ask) / "splits.json"
    names: list[str] = json.loads(kept.read_text())
    found = {split: [n for n in names if split_of(Path(n)) == split] for split in SPLITS}
    if not found["test"]:
        found["test"], found["val"] = found["val"], []
    return {split: each for split, each in found.items() if each}


def stream_documents(
    address: str, column: str, documents: int, names: Sequence[str] = ("train",)
) -> Pieces:
    """Yield the first documents of each of some splits of a data set of the Hugging Face
    hub; each document is a source.

    Args:
        address: hf://OWNER/NAME or hf://OWNER/NAME/CONFIGURATION, or a folder after
            hf://, which is read by the same loader.
        column: Column of the texts.
        documents: Documents, at most.
        names: What the hub calls the splits.
    """
    for name in names:
        rows = _ask_hub(address, lambda hub, given, name=name: iter(
            hub.load_dataset(*given, split=name, streaming=True).take(documents)))  # fmt: skip
        each = iter(
            lambda rows=rows: _ask_hub(address, lambda *_: next(rows, None)), None
        )
        for place, row in enumerate(each):
            yield f"{place}", _text_of(row, f"row {place} of {address}", column) + "\n"


def _ask_hub(address: str, ask: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    """Return what the loader of the hub says of a data set."""
    name = address.removeprefix(HUB)
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task 'text': {address} needs datasets: {install_command('lm')}; "
            "or name a file by path=."
        ) from error
    owner, _, last = name.rpartition("/")
    given = (name,) if Path(name).is_dir() or "/" not in owner else (owner, last)
    try:
        return ask(datasets, given)
    except Exception as error:
        raise ConfigError(
            f"task 'text': cannot load {address} ({in_words(error, 100)}); check the name and "
            "the connection, or name a file by path=."
        ) from error
