"""Text as streams of tokens: what is read, how it is cut, who learns it, and how it
is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.tasks.cache import require
from decentral.tasks.samples import Samples
from decentral.tasks.tokens import Pieces, Spelling, Tokenizer
from decentral.userfile import place_of

#: Characters of a chunk; the last tenth of every chunk is kept for the test.
CHUNK, TEST = 20_000, 0.1

SPLITS: tuple[str, ...] = ("train", "val", "test")

#: Characters read at a time.
_PIECE = 1 << 20


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


@dataclass(frozen=True)
class Files:
    """The files of each split, and what is to be said about them.

    Without files for the test, parts of the training text are held out for it.
    """

    splits: dict[str, list[Path]]
    notes: tuple[str, ...] = ()


#: What a folder of ``datasets`` has beside its tables.
_ABOUT = {"dataset_info.json", "state.json", "dataset_dict.json"}

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
    found = sorted(p for p in place.rglob("*") if p.is_file() and p.name not in _ABOUT)
    if not found:
        raise ConfigError(
            f"task 'text': {path} is no file and no folder with files; check {setting}=."
        )
    named = {file: split_of(file.relative_to(place)) for file in found}
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


def split_of(inside: Path) -> str:
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
    b"PAR1": "is a parquet table; call it *.parquet, and name the column by column=",
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


def encode(segments: Iterable[Segment], tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokens of every split, and where in train each source and chunk
    begins.

    Args:
        segments: Pieces of text and the split of each.
        tokenizer: Text to tokens.
        folder: Where the arrays are written.
    """
    ends = dict.fromkeys(SPLITS, 0)
    sizes = dict.fromkeys(SPLITS, 0)
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
            sizes[segment.split] += tokenizer.measure(segment.text)
            files[segment.split].write(tokens.tobytes())
    facts = {"vocabulary": tokenizer.size, "marks": marks, "bytes": sizes}
    facts |= {"end": tokenizer.end, "alphabet": tokenizer.alphabet}
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
    sizes: dict[str, int]  # bytes of the text of every split
    end: int | None  # the token that ends a document
    spelling: Spelling


def load(folder: Path, mapped: bool) -> Encoded:
    """Load what ``encode`` wrote; mapped files are read as they are needed."""
    facts: dict[str, Any] = json.loads(
        (folder / "facts.json").read_text(encoding="utf-8")
    )
    streams = {split: _stream(folder / f"{split}.bin", mapped) for split in SPLITS}
    return Encoded(
        streams,
        facts["vocabulary"],
        [tuple(mark) for mark in facts["marks"]],
        mapped,
        facts["bytes"],
        facts["end"],
        Spelling(facts["alphabet"], facts["vocabulary"]),
    )


def _stream(file: Path, mapped: bool) -> NDArray[np.int32]:
    if mapped and file.stat().st_size:  # an empty file cannot be mapped
        # Copy on write, since torch warns of memory that it may not write.
        return np.memmap(file, np.int32, "c")
    return np.fromfile(file, np.int32)


# --- samples ----------------------------------------------------------------------


def windows(data: Encoded, split: str, context: int, stride: int) -> Samples:
    """Return sequences and what follows each token, as views into the stream."""
    stream = torch.from_numpy(data.streams[split])
    # A sample takes one token more than its context: the target of the last.
    if len(stream) <= context:
        # Only validation may be empty: a run that has no use for it goes on
        # without.
        if split == "val":
            return Samples(stream[:0].view(0, context), stream[:0].view(0, context))
        raise ConfigError(
            f"task 'text': {len(stream)} tokens for {split} are too few for context = {context}; "
            f"it must be below {len(stream)}, or give more text."
        )
    # Views of one stream: overlapping windows take no memory of their own.
    inputs, targets = (
        part.unfold(0, context, stride) for part in (stream[:-1], stream[1:])
    )
    return Samples(inputs, targets, mapped=data.mapped)


def starts_of(data: Encoded, split: str, context: int) -> NDArray[np.int64]:
    """Return where samples begin of which each is of one document."""
    stream = data.streams[split]
    (last,) = np.nonzero(stream == data.end)
    # What a cut has left of a document, at the end, is one as well.
    ends = np.append(last + 1, len(stream))
    firsts = np.concatenate([[0], ends[:-1]])
    # The last token of a document predicts nothing.
    counts = -(-np.maximum(ends - firsts - 1, 0) // context)
    place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    return np.repeat(firsts, counts) + place * context


def padded(data: Encoded, split: str, context: int) -> Samples:
    """Return samples of single documents, padded with the token that ends them; no
    target is beyond that.
    """
    assert data.end is not None
    stream = np.asarray(data.streams[split])
    starts = starts_of(data, split, context)
    if not len(starts) and split != "val":
        raise ConfigError(
            f"task 'text': no document for {split} has two tokens; give more text."
        )
    (last,) = np.nonzero(stream == data.end)
    following = np.append(last, len(stream) - 1)
    # The last token of the document that a sample begins in.
    final = following[np.searchsorted(last, starts)]
    places = starts[:, None] + np.arange(context)
    inside = places < final[:, None]
    some = np.minimum(places, len(stream) - 2)
    inputs = np.where(inside, stream[some], data.end)
    targets = np.where(inside, stream[some + 1], -100)
    return Samples(
        torch.from_numpy(inputs.astype(np.int32)),
        torch.from_numpy(targets.astype(np.int32)),
    )


def labels_of_samples(
    data: Encoded, starts: NDArray[np.int64], by: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the group of every sample, that of its first token, and the groups'
    names.

    Args:
        data: The tokens, and where sources begin.
        starts: The first token of every sample.
        by: What groups are.
    """
    begins, sources, chunks = zip(*data.marks, strict=True)
    several = len(set(sources)) > 1
    grouped = sources if by == "source" or (by == "auto" and several) else chunks
    names, numbers = np.unique(np.array(grouped), return_inverse=True)
    # The last mark at or before the first token of a sample.
    mark = np.searchsorted(np.array(begins), starts, side="right") - 1
    return numbers[mark].astype(np.int64), tuple(str(name) for name in names)
