"""Text as streams of tokens: what is read, how it is cut, who learns it, and how it
is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError, in_words
from decentral.tasks.cache import cached_folder, require
from decentral.userfile import place_of

#: Characters of a chunk; the last tenth of every chunk is kept for the test.
CHUNK, TEST = 20_000, 0.1

#: How the address of a data set of the Hugging Face hub begins.
HUB = "hf://"

SPLITS: tuple[str, ...] = ("train", "val", "test")

#: Characters read at a time.
_PIECE = 1 << 20

#: Pieces of text in order, each with the name of the source that it continues or
#: begins.
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
    found = {split: [n for n in names if _split_of(Path(n)) == split] for split in SPLITS}
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
            yield f"{place}", _text_of(row, f"row {place} of {address}", column)


def _ask_hub(address: str, ask: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    """Return what the loader of the hub says of a data set."""
    name = address.removeprefix(HUB)
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task 'text': {address} needs datasets: pip install -c constraints.txt -e '.[lm]'; "
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


def _text_of(row: Mapping[str, Any], where: str, column: str) -> str:
    if isinstance(row.get(column), str):
        return row[column] + "\n"
    found = repr(row[column])[:40] if column in row else "nothing"
    raise ConfigError(
        f"task 'text': {where} holds {found} in column {column!r}; expected a text: column= must "
        f"be one of {', '.join(row)}."
    )


@dataclass(frozen=True)
class Files:
    """The files of each split, and what is to be said about them.

    Without files for the test, parts of the training text are held out for it.
    """

    splits: dict[str, list[Path]]
    notes: tuple[str, ...] = ()


#: How the words of a path say that a file is no training text.
_WORDS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}


def files_of(path: str, setting: str = "path") -> Files:
    """Return the file at ``path``, or all files below it, by the splits that their
    names tell.

    A file that is named is all for training. In a folder those that are called test
    or validation, or lie in a folder of that name, are; where one is called train,
    others are left aside.

    Args:
        path: A file, or a folder.
        setting: That holds it, for messages.
    """
    place = place_of(path)
    require("task 'text'", place, setting)
    if place.is_file():
        return Files({"train": [place]})
    found = sorted(p for p in place.rglob("*") if p.is_file())
    if not found:
        raise ConfigError(
            f"task 'text': {path} is no file and no folder with files; check {setting}=."
        )
    named = {file: _split_of(file.relative_to(place)) for file in found}
    splits = {
        split: [file for file in found if named[file] == split] for split in (*SPLITS, "")
    }
    unnamed, notes = splits.pop(""), list[str]()
    if not splits["train"]:
        splits["train"] = unnamed
    elif unnamed:
        notes.append(f"task 'text': left aside in {path}: {_list_files(unnamed, place)}.")
    if not splits["test"]:
        splits["test"], splits["val"] = splits["val"], []
    if not splits["train"]:
        raise ConfigError(
            f"task 'text': all files in {path} are called test or validation; name one that is to "
            f"be trained on, or call it train."
        )
    for split in ("val", "test"):
        if splits[split]:
            held = _list_files(splits[split], place)
            notes.append(f"task 'text': {split} is {held}, which is not trained on.")
    return Files({split: each for split, each in splits.items() if each}, tuple(notes))


def _split_of(inside: Path) -> str:
    """Return the split that a name tells, ``wiki.test.txt`` or ``valid/a.txt``;
    else nothing.
    """
    for part in (inside.stem, *(parent.name for parent in inside.parents)):
        words = set(re.split(r"[^a-z]+", part.lower()))
        for split, known in _WORDS.items():
            if words & known:
                return split
    return ""


def _list_files(files: Sequence[Path], folder: Path) -> str:
    shown = ", ".join(str(file.relative_to(folder)) for file in files[:3])
    return shown + (f" and {len(files) - 3} more" if len(files) > 3 else "")


#: What is no plain text, by its first bytes, and what to do.
_OTHER = {
    b"version https://git-lfs": "is a pointer of git-LFS; fetch the file by `git lfs pull`",
    b"PAR1": "is a parquet table; name its folder as hf://FOLDER, and the column by column=",
    b"\x1f\x8b": "is compressed; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
}


def _refuse_other(file: Path, encoding: str) -> None:
    """Raise ConfigError for a file that is no text; bytes may be anything."""
    with file.open("rb") as opened:
        head = opened.read(32)
    lfs = next(iter(_OTHER))
    for sign, said in _OTHER.items():
        if head.startswith(sign) and (encoding != "latin-1" or sign == lfs):
            raise ConfigError(f"task 'text': {file} {said}.")


def read(files: Iterable[Path], encoding: str, separator: str | None) -> Pieces:
    """Yield the text of files; a source is a file, or what begins with a
    ``separator`` line.

    Args:
        files: The files, in order.
        encoding: Their encoding.
        separator: How a line begins that opens a source; none: a source is a file.
    """
    for file in files:
        _refuse_other(file, encoding)
        try:
            with file.open(encoding=encoding, newline="") as opened:
                # By size where lines do not matter: a file may hold a single line
                # of gigabytes.
                pieces = (
                    iter(lambda: opened.read(_PIECE), "") if separator is None else opened
                )
                part = 0
                for piece in pieces:
                    part += separator is not None and piece.startswith(separator)
                    yield (f"{file.name}:{part}" if separator else file.name), piece
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"task 'text': {file} is not UTF-8 (byte 0x{error.object[error.start]:02x}); "
                "use tokens=byte."
            ) from error


def segments(pieces: Pieces, val: float, *, test: bool = True) -> Iterator[Segment]:
    """Cut text, sources end to end, into chunks of which the last parts are held
    out.

    Of every chunk the last tenth is for the test, and the share ``val`` of the
    rest, its end, for validation.

    Args:
        pieces: The text.
        val: Share for validation.
        test: Whether anything is held out for the test.
    """
    kept = CHUNK * (1 - TEST * test)
    ends = {"train": round(kept * (1 - val)), "val": round(kept), "test": CHUNK}
    at = 0
    for source, piece in pieces:
        place = 0
        while place < len(piece):
            within = at % CHUNK
            split, end = next((name, end) for name, end in ends.items() if within < end)
            # A piece is cut where its part of the chunk ends; the rest belongs to
            # the next part.
            text = piece[place : place + end - within]
            yield Segment(source, at // CHUNK, split, text)
            place += len(text)
            at += len(text)


def keep_whole(pieces: Pieces, split: str) -> Iterator[Segment]:
    """Yield text that is all of one split."""
    return (Segment(source, 0, split, piece) for source, piece in pieces)


# --- tokens -----------------------------------------------------------------------


@dataclass(frozen=True)
class Tokenizer:
    """From text to token numbers below ``size``."""

    encode: Callable[[str], NDArray[Any]]
    size: int


def characters(pieces: Pieces) -> Tokenizer:
    """Number the characters that occur, in the order of their code points."""
    known: set[str] = set()
    for _, piece in pieces:
        known.update(piece)
    points = np.array(sorted(map(ord, known)), dtype=np.uint32)

    def encode(text: str) -> NDArray[Any]:
        # Four bytes a character are its code point: numbering needs no loop in
        # Python.
        return np.searchsorted(points, np.frombuffer(text.encode("utf-32-le"), np.uint32))

    return Tokenizer(encode, len(points))


def octets(pieces: Pieces) -> Tokenizer:
    """Take every byte as it is, from text that was read as latin-1."""
    return Tokenizer(lambda text: np.frombuffer(text.encode("latin-1"), np.uint8), 256)


def pairs(texts: Iterable[str], size: int, into: Path) -> Tokenizer:
    """Learn byte-pair encoding of ``size`` tokens, and keep it in a folder as
    tokenizer.json.

    Args:
        texts: The training text.
        size: Number of tokens.
        into: Folder of tokenizer.json.
    """
    try:
        import tokenizers as hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "task 'text': tokens=bpe needs tokenizers: pip install -c constraints.txt -e '.[lm]'."
        ) from error
    learned: Any = hub.Tokenizer(hub.models.BPE())
    learned.pre_tokenizer = hub.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_ = hub.pre_tokenizers.ByteLevel.alphabet()
    trainer = hub.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=bytes_, show_progress=False
    )
    learned.train_from_iterator(texts, trainer)
    learned.save(str(into / "tokenizer.json"))
    return Tokenizer(
        lambda text: np.array(learned.encode(text).ids), learned.get_vocab_size()
    )


def encode(segments: Iterable[Segment], tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokens of every split, and where in train each source and chunk
    begins.

    Args:
        segments: Pieces of text and the split of each.
        tokenizer: Text to tokens.
        folder: Where the arrays are written.
    """
    ends = dict.fromkeys(SPLITS, 0)
    marks: list[tuple[int, str, int]] = []
    with ExitStack() as stack:
        files = {s: stack.enter_context((folder / f"{s}.bin").open("wb")) for s in SPLITS}
        for segment in segments:
            # Parts are encoded apart, so that no token reaches from one split into
            # another.
            tokens = tokenizer.encode(segment.text).astype(np.int32)
            if segment.split == "train" and len(tokens):
                marks.append((ends["train"], segment.source, segment.chunk))
            ends[segment.split] += len(tokens)
            files[segment.split].write(tokens.tobytes())
    facts = {"vocabulary": tokenizer.size, "marks": marks}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


@dataclass(frozen=True)
class Encoded:
    """Tokens of every split, in memory or mapped; ``marks`` are (first token,
    source, chunk).
    """

    streams: dict[str, NDArray[np.int32]]
    vocabulary: int
    marks: list[tuple[int, str, int]]
    mapped: bool


def load(folder: Path, mapped: bool) -> Encoded:
    """Load what ``encode`` wrote; mapped files are read as they are needed."""
    facts: dict[str, Any] = json.loads(
        (folder / "facts.json").read_text(encoding="utf-8")
    )
    streams = {split: _stream(folder / f"{split}.bin", mapped) for split in SPLITS}
    return Encoded(
        streams, facts["vocabulary"], [tuple(mark) for mark in facts["marks"]], mapped
    )


def _stream(file: Path, mapped: bool) -> NDArray[np.int32]:
    if mapped and file.stat().st_size:  # an empty file cannot be mapped
        # Copy on write, since torch warns of memory that it may not write.
        return np.memmap(file, np.int32, "c")
    return np.fromfile(file, np.int32)
