"""Next-token prediction on text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.errors import ConfigError
from decentral.process import OwnFolder
from decentral.registry import Count, Location, plugin
from decentral.tasks.base import HeldOut, Samples, Task
from decentral.tasks.cache import CACHE, cached_folder, fingerprint
from decentral.tasks.corpus import (
    HUB,
    SPLITS,
    Encoded,
    Pieces,
    Segment,
    characters,
    encode,
    files_of,
    hub_splits,
    keep_whole,
    load,
    octets,
    pairs,
    read,
    segments,
    stream_documents,
    topics,
)

_TOKENIZERS = {"char": characters, "byte": octets}


def next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of outputs [B, T, V] at tokens [B, T], in nats.

    Targets may be probabilities [B, T, V], too.
    """
    return cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1))


@plugin(
    "task",
    defaults={
        "model": "gpt",
        "optimizer": {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]},
        "learning_rate": {"name": "cosine", "lr": 0.004, "warmup": "10%", "floor": 0.05},
        "batch": {"name": "constant", "size": 16},
        "clip": 1.0,
        "steps": 800,
    },
)
def text(
    *,
    path: Location | None = None,
    tokens: Literal["char", "byte", "bpe"] = "char",
    vocabulary: Annotated[int, Ge(256)] = 1024,
    context: Count = 64,
    stride: Count | None = None,
    by: Literal["auto", "source", "chunk"] = "auto",
    separator: str | None = None,
    column: str = "text",
    documents: Count = 10_000,
    val: HeldOut = 0.0,
    cache: str = CACHE,
    test: Location | None = None,
) -> Task:
    """Predict the next token of English text, by default the language reference of
    Python.

    ``path`` is any text file, or a folder of them; their tokens are kept in
    ``cache`` and mapped from there, so that they may be larger than memory.
    ``hf://OWNER/NAME`` streams the first ``documents`` of a data set of the Hugging
    Face hub (``[lm]`` extra), each a source, from its ``column``; its splits for test
    and validation are that, as files of such names are. ``tokens`` are
    characters, bytes, or ``vocabulary`` pieces of words learned from the training
    text (byte-pair encoding; ``[lm]`` extra). A sample is ``context`` tokens with
    the one that follows each; the next begins ``stride`` later (none: ``context``,
    so that no token is in two samples).

    Nothing of ``test`` is trained on, nor files of a folder whose names say test or
    validation. Where there are none, the training text, sources end to end, is cut
    into chunks of 20,000 characters, and the last tenth of each is for the test.
    The end of what remains of a chunk, its share ``val``, is for validation.

    Splits divide samples ``by`` source (a file, a topic of the default text, or
    what begins with a line that starts with ``separator``) or by chunk; auto takes
    sources where there are several.

    Args:
        path: A text file, a folder of them, or ``hf://OWNER/NAME``; none: Python's
            reference.
        tokens: What a token is: ``char``, ``byte`` or ``bpe``.
        vocabulary: Pieces of words, where tokens are learned.
        context: Tokens of a sample.
        stride: Tokens from one sample to the next; none: ``context``.
        by: What splits divide: ``source``, ``chunk``, or ``auto``.
        separator: How a line begins that opens a new source.
        column: Column of the texts, on the hub.
        documents: Documents taken from the hub.
        val: Share of the training samples kept for validation.
        cache: Folder for what is decoded once.
        test: A text file, or a folder of them, for the test; none: parts of
            ``path``.
    """
    text, notes = _source(path, test, tokens, separator, column, documents, cache)
    if val and "val" in text.held:
        raise ConfigError(
            f"task 'text': val = {val:g}, but {path} has files for validation; leave val out, or "
            "move them away."
        )
    data = _encode_text(text, (tokens, vocabulary), val, cache)
    parts = {s: _windows(data, s, context, stride or context) for s in SPLITS}
    labels, names = _labels(data, len(parts["train"]), stride or context, by)
    return Task(
        loss=next_token, train=parts["train"], test=parts["test"],
        val=parts["val"] if val or "val" in text.held else None,
        labels=torch.from_numpy(labels), classes=names, outputs=data.vocabulary, notes=notes,
    )  # fmt: skip


@dataclass(frozen=True)
class _Text:
    """What is read: the training text, and what is held out of it whole.

    ``key`` is what changes with it; none: it ships with Python.
    """

    key: list[Any] | None
    train: Callable[[], Pieces]
    held: Mapping[str, Callable[[], Pieces]]

    def all(self) -> Pieces:
        """Yield the text of all splits."""
        for read_one in (self.train, *self.held.values()):
            yield from read_one()

    def segments(self, val: float) -> Iterator[Segment]:
        """Yield the text by split; where a test is given, none of the rest is held
        out for it.
        """
        yield from segments(self.train(), val, test="test" not in self.held)
        for split, read_one in self.held.items():
            yield from keep_whole(read_one(), split)


def _source(
    path: str | None,
    test: str | None,
    tokens: str,
    separator: str | None,
    column: str,
    documents: int,
    cache: str,
) -> tuple[_Text, tuple[str, ...]]:
    """Return what is read, and what is to be said about it.

    Args:
        path: A file, a folder, an address of the hub; none: Python's reference.
        test: A file or folder for the test.
        tokens: What a token is.
        separator: How a line begins that opens a source.
        column: Column of the texts, on the hub.
        documents: Documents taken from the hub.
        cache: Folder in which it is kept what the hub calls its splits.
    """
    # latin-1 makes one character of every byte, whatever the file is encoded in;
    # utf-8-sig drops a byte order mark, which would be a token of its own.
    encoding = "latin-1" if tokens == "byte" else "utf-8-sig"
    files, notes = _files(path, test)
    if shared := {*files.get("train", ())} & {*files.get("test", ())}:
        raise ConfigError(
            f"task 'text': {min(shared)} is both for training and for the test."
        )
    held = {
        split: partial(read, files[split], encoding, separator)
        for split in ("val", "test")
        if split in files
    }
    marks = {split: fingerprint(each) for split, each in sorted(files.items())}
    if path is None or path.startswith(HUB):
        source, key = topics, [path, column, documents, marks] if marks else None
        if path is not None:
            splits = hub_splits(path, cache)
            stream = partial(stream_documents, path, column, documents)
            source = partial(stream, splits.get("train", ["train"]))
            theirs = {one: splits[one] for one in ("val", "test") if one in splits}
            held = {k: partial(_as_pieces, partial(stream, each), tokens)
                    for k, each in theirs.items()} | held  # fmt: skip
            key = [path, column, documents, marks, *([theirs] if theirs else [])]
            notes += tuple(
                f"task 'text': {split} is {', '.join(each)} of {path}, which is not trained on."
                for split, each in theirs.items()
                if split not in files
            )
        return _Text(key, partial(_as_pieces, source, tokens), held), notes
    train = partial(read, files["train"], encoding, separator)
    return _Text([separator, marks], train, held), notes


def _files(
    path: str | None, test: str | None
) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Return the files of every split, and what is to be said about them."""
    files, notes = dict[str, list[Path]](), tuple[str, ...]()
    if path is not None and not path.startswith(HUB):
        found = files_of(path)
        files, notes = found.splits, found.notes
    if test is not None:
        if "test" in files:
            said = f"task 'text': test={test} stands for the test files of {path}."
            notes = (*notes, said)
        theirs = files_of(test, "test").splits.values()
        files |= {"test": [one for each in theirs for one in each]}
    return files, notes


def _encode_text(text: _Text, tokens: tuple[str, int], val: float, cache: str) -> Encoded:
    if text.key is None:
        with OwnFolder("decentral-") as folder:
            _encode(tokens, text, val, folder)
            # Into memory: the folder is gone when this returns.
            return load(folder, mapped=False)
    # The number goes up when what is written changes: older folders are left alone.
    whole = ["text-3", tokens, val, text.key]
    made = cached_folder(
        cache, "text", whole, lambda made: _encode(tokens, text, val, made)
    )
    return load(made, mapped=True)


def _encode(tokens: tuple[str, int], text: _Text, val: float, into: Path) -> None:
    kind, size = tokens
    if kind == "bpe":
        # From the training text only, or the vocabulary would know the test.
        learned = (each.text for each in text.segments(val) if each.split == "train")
        tokenizer = pairs(learned, size, into)
    else:
        tokenizer = _TOKENIZERS[kind](text.all())
    encode(text.segments(val), tokenizer, into)


def _as_pieces(source: Callable[[], Pieces], tokens: str) -> Pieces:
    """Yield texts as files would have been read: of bytes, one character for each."""
    for name, text in source():
        yield name, text.encode().decode("latin-1") if tokens == "byte" else text


def _windows(data: Encoded, split: str, context: int, stride: int) -> Samples:
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


def _labels(
    data: Encoded, count: int, stride: int, by: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the group of every sample, that of its first token, and the groups'
    names.
    """
    starts, sources, chunks = zip(*data.marks, strict=True)
    several = len(set(sources)) > 1
    grouped = sources if by == "source" or (by == "auto" and several) else chunks
    names, numbers = np.unique(np.array(grouped), return_inverse=True)
    # The last mark at or before the first token of a sample.
    mark = np.searchsorted(np.array(starts), np.arange(count) * stride, side="right") - 1
    return numbers[mark].astype(np.int64), tuple(str(name) for name in names)
