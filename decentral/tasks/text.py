"""Next-token prediction on text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.errors import ConfigError
from decentral.registry import Count, plugin
from decentral.tasks.base import HeldOut, Samples, Task
from decentral.tasks.cache import CACHE, cached, fingerprint
from decentral.tasks.corpus import (
    HUB,
    SPLITS,
    Encoded,
    Pieces,
    characters,
    encode,
    files_of,
    load,
    octets,
    pairs,
    read,
    segments,
    streamed,
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
    path: str | None = None,
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
) -> Task:
    """Predict the next token of English text, by default the language reference of Python.

    ``path`` is any text file, or a folder of them; their tokens are kept in ``cache`` and mapped
    from there, so that they may be larger than memory. ``hf://OWNER/NAME`` streams the first
    ``documents`` of a data set of the Hugging Face hub (``[lm]`` extra), each a source, from its
    ``column``. ``tokens`` are characters, bytes, or ``vocabulary`` pieces of words learned from the
    training text (byte-pair encoding; ``[lm]`` extra). The text, sources end to end, is cut
    into chunks of 20,000 characters; the last tenth of each is for the test, the end of the rest
    (its share ``val``) for validation. A sample is ``context`` tokens with the one that follows
    each; the next begins ``stride`` later (none: ``context``, so that no token is in two samples).

    Splits divide samples ``by`` source (a file, a topic of the default text, or what begins with a
    line that starts with ``separator``) or by chunk; auto takes sources where there are several.

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
    """
    key, pieces = _source(path, tokens, separator, column, documents)
    data = _encoded(key, pieces, (tokens, vocabulary), val, cache)
    train, valid, test = (_windows(data, s, context, stride or context) for s in SPLITS)
    labels, names = _labels(data, len(train), stride or context, by)
    return Task(
        loss=next_token, train=train, val=valid if val else None, test=test,
        labels=torch.from_numpy(labels), classes=names, outputs=data.vocabulary,
    )  # fmt: skip


def _source(
    path: str | None, tokens: str, separator: str | None, column: str, documents: int
) -> tuple[list[Any] | None, Callable[[], Pieces]]:
    """Return what changes with the text (None: it ships with Python), and what reads it."""
    if path is None:
        return None, lambda: ((name, _as_read(piece, tokens)) for name, piece in topics())
    if path.startswith(HUB):
        return [path, column, documents], lambda: (
            (name, _as_read(piece, tokens)) for name, piece in streamed(path, column, documents)
        )
    files, encoding = files_of(path), "latin-1" if tokens == "byte" else "utf-8"
    return [separator, fingerprint(files)], lambda: read(files, encoding, separator)


def _encoded(
    key: list[Any] | None,
    pieces: Callable[[], Pieces],
    tokens: tuple[str, int],
    val: float,
    cache: str,
) -> Encoded:
    if key is None:
        with TemporaryDirectory() as folder:
            _encode(tokens, pieces, val, Path(folder))
            return load(Path(folder), mapped=False)
    # The number goes up when what is written changes: older folders are left alone.
    whole = ["text-2", tokens, val, key]
    made = cached(cache, "text", whole, lambda made: _encode(tokens, pieces, val, made))
    return load(made, mapped=True)


def _encode(tokens: tuple[str, int], pieces: Callable[[], Pieces], val: float, into: Path) -> None:
    kind, size = tokens
    if kind == "bpe":
        # From the training text only, or the vocabulary would know the test.
        learned = (each.text for each in segments(pieces(), val) if each.split == "train")
        tokenizer = pairs(learned, size, into)
    else:
        tokenizer = _TOKENIZERS[kind](pieces())
    encode(segments(pieces(), val), tokenizer, into)


def _as_read(piece: str, tokens: str) -> str:
    return piece.encode().decode("latin-1") if tokens == "byte" else piece


def _windows(data: Encoded, split: str, context: int, stride: int) -> Samples:
    """Return sequences and what follows each token, as views into the stream."""
    stream = torch.from_numpy(data.streams[split])
    if len(stream) <= context:
        if split == "val":
            return Samples(stream[:0].view(0, context), stream[:0].view(0, context))
        raise ConfigError(
            f"task 'text': {len(stream)} tokens for {split} are too few for context = {context}; "
            f"it must be below {len(stream)}, or give more text."
        )
    # Views of one stream: overlapping windows take no memory of their own.
    inputs, targets = (part.unfold(0, context, stride) for part in (stream[:-1], stream[1:]))
    return Samples(inputs, targets, mapped=data.mapped)


def _labels(data: Encoded, count: int, stride: int, by: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the group of every sample, that of its first token, and the groups' names."""
    starts, sources, chunks = zip(*data.marks, strict=True)
    several = len(set(sources)) > 1
    grouped = sources if by == "source" or (by == "auto" and several) else chunks
    names, numbers = np.unique(np.array(grouped), return_inverse=True)
    # The last mark at or before the first token of a sample.
    mark = np.searchsorted(np.array(starts), np.arange(count) * stride, side="right") - 1
    return numbers[mark].astype(np.int64), tuple(str(name) for name in names)
