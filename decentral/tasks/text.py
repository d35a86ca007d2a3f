"""Next-token prediction on text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.errors import ConfigError
from decentral.process import OwnFolder
from decentral.registry import Count, Location, plugin
from decentral.tasks.base import Continued, HeldOut, Task
from decentral.tasks.cache import CACHE, cached_folder, fingerprint, require
from decentral.tasks.corpus import (
    SPLITS,
    Encoded,
    Segment,
    encode,
    files_of,
    keep_whole,
    labels_of_samples,
    load,
    padded,
    segments,
    starts_of,
    topics,
    windows,
)
from decentral.tasks.documents import (
    HUB,
    Columns,
    has_rows,
    hub_splits,
    mark_ends,
    read_all,
    stream_documents,
)
from decentral.tasks.encoders import Labelled, classes_task, masks_of
from decentral.tasks.samples import Samples
from decentral.tasks.tokens import (
    Pieces,
    Tokenizer,
    characters,
    folder_tokenizer,
    octets,
    pairs,
)
from decentral.userfile import place_of

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
    tokenizer: Location | None = None,
    domain: str | None = None,
    fit: Literal["pack", "pad"] = "pack",
    prompts: list[str] | None = None,
    masked: Annotated[float, Gt(0), Lt(1)] | None = None,
    mask_seed: int | None = None,
    label: str | None = None,
) -> Task:
    """Predict the next token of English text, by default the language reference of
    Python.

    ``path`` is any text file, or a folder of them; of ``*.jsonl``, ``*.parquet`` and
    what ``datasets`` has saved (``*.arrow``) every row is a document. Tokens are kept in
    ``cache`` and mapped from there, so that they may be larger than memory.
    ``hf://OWNER/NAME`` streams the first ``documents`` of a data set of the Hugging
    Face hub (``[lm]`` extra), each a source, from its ``column``; its splits for test
    and validation are that, as files of such names are. ``tokens`` are
    characters, bytes, or ``vocabulary`` pieces of words learned from the training
    text (byte-pair encoding; ``[lm]`` extra); ``tokenizer`` is a folder that brings its
    own, with a token that ends documents. A sample is ``context`` tokens with
    the one that follows each; the next begins ``stride`` later (none: ``context``,
    so that no token is in two samples); documents are packed one behind the other, or
    each ``pad`` to samples of its own, whose rest does not count.

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
        column: Column of the texts, on the hub and in tables.
        documents: Documents taken from the hub.
        val: Share of the training samples kept for validation.
        cache: Folder for what is decoded once.
        test: A text file, or a folder of them, for the test; none: parts of
            ``path``.
        tokenizer: Folder with ``tokenizer.json``, in the place of ``tokens``.
        domain: Column of tables that names the source of a row; none: each is one.
        fit: ``pack`` documents one behind the other, or ``pad`` each.
        prompts: What samples of generated text in the report begin with; none: the
            beginnings of two samples of the test; []: there are no samples.
        masked: Share of the tokens that are hidden and to be found, as encoders
            learn; none: the next token is.
        mask_seed: Seed of what is hidden; none: 0.
        label: Column of tables with the class of a text, which is then learned.
    """
    kind = _Kind(tokens, vocabulary, tokenizer)
    if label is not None:
        if masked is not None or tokenizer is None or path is None:
            raise ConfigError(
                "task 'text': label needs path= and test= of tables, tokenizer=FOLDER, that of "
                "the model, and no masked."
            )
        (files, notes), tables = _files(path, test), Labelled(column, label)
        return classes_task(files, tables, place_of(tokenizer), context, val, notes)
    columns = Columns(column, domain)
    text, notes = _source(path, test, kind, separator, columns, documents, cache)
    if val and "val" in text.held:
        raise ConfigError(
            f"task 'text': val = {val:g}, but {path} has files for validation; leave val out, or "
            "move them away."
        )
    data = _encode_text(text, kind, val, cache)
    parts, begins = _samples(data, fit == "pad", context, stride or context)
    labels, names = labels_of_samples(data, begins, by)
    made: dict[str, Any] = {"outputs": data.vocabulary}
    if masked is not None:
        folder = None if tokenizer is None else place_of(tokenizer)
        masks = masks_of(masked, mask_seed or 0, data.vocabulary, data.end, folder)
        parts = {split: masks.apply(one, split) for split, one in parts.items()}
        made["outputs"] = max(data.vocabulary, masks.token + 1)
    else:
        made["continued"] = _continued(data, parts["test"], prompts, context)
        made["token_bytes"] = data.sizes["test"] / max(1, len(data.streams["test"]))
    return Task(
        loss=next_token, train=parts["train"], test=parts["test"],
        val=parts["val"] if val or "val" in text.held else None,
        labels=torch.from_numpy(labels), classes=names, notes=notes,
        ignore_index=-100 if fit == "pad" or masked is not None else None, **made,
    )  # fmt: skip


def _samples(
    data: Encoded, pad: bool, context: int, stride: int
) -> tuple[dict[str, Samples], Any]:
    """Return the samples of every split, and where those of the training begin.

    Args:
        data: The tokens.
        pad: Whether every document is padded to samples of its own.
        context: Tokens of a sample.
        stride: Tokens from one sample to the next.
    """
    if not pad:
        parts = {s: windows(data, s, context, stride) for s in SPLITS}
        return parts, np.arange(len(parts["train"])) * stride
    if data.end is None:
        raise ConfigError(
            "task 'text': fit=pad needs to know where documents end; give tokenizer=FOLDER, whose "
            "tokenizer_config.json names an eos_token."
        )
    parts = {s: padded(data, s, context) for s in SPLITS}
    return parts, starts_of(data, "train", context)


def _continued(
    data: Encoded, test: Samples, prompts: Sequence[str] | None, context: int
) -> Continued | None:
    """Return what the merged model goes on with.

    Args:
        data: The tokens.
        test: The samples of the test.
        prompts: What samples begin with; none: a quarter of two samples of the test.
        context: Tokens of a sample.
    """
    if prompts is None:
        places = torch.tensor([0, len(test) // 2][: len(test)])
        found = test.take(places)[0][:, : max(1, context // 4)].tolist()
    else:
        found = [data.spelling.read(one) for one in prompts]
    return Continued(tuple(map(tuple, found)), data.spelling.write) if found else None


@dataclass(frozen=True)
class _Kind:
    """What tokens are."""

    tokens: str
    vocabulary: int
    folder: str | None

    @property
    def key(self) -> list[Any]:
        """What changes with it."""
        if self.folder is None:
            return [self.tokens, self.vocabulary]
        place = place_of(self.folder)
        require("task 'text'", place, "tokenizer")
        files = (place / name for name in ("tokenizer.json", "tokenizer_config.json"))
        return ["folder", fingerprint([file for file in files if file.is_file()])]

    @property
    def octets(self) -> bool:
        """Whether text is read byte by byte."""
        return self.folder is None and self.tokens == "byte"

    def of_folder(self) -> Tokenizer | None:
        """Return the tokenizer of the folder, if there is one."""
        return None if self.folder is None else folder_tokenizer(place_of(self.folder))


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
    kind: _Kind,
    separator: str | None,
    columns: Columns,
    documents: int,
    cache: str,
) -> tuple[_Text, tuple[str, ...]]:
    """Return what is read, and what is to be said about it.

    Args:
        path: A file, a folder, an address of the hub; none: Python's reference.
        test: A file or folder for the test.
        kind: What a token is.
        separator: How a line begins that opens a source.
        columns: Columns of the texts, on the hub and in tables.
        documents: Documents taken from the hub.
        cache: Folder in which it is kept what the hub calls its splits.
    """
    # latin-1 makes one character of every byte, whatever the file is encoded in;
    # utf-8-sig drops a byte order mark, which would be a token of its own.
    encoding = "latin-1" if kind.octets else "utf-8-sig"
    files, notes = _files(path, test)
    if shared := {*files.get("train", ())} & {*files.get("test", ())}:
        raise ConfigError(
            f"task 'text': {min(shared)} is both for training and for the test."
        )
    some = kind.of_folder()
    ends = some is not None and some.end is not None

    def taken(files: list[Path]) -> Pieces:
        for rows in (True, False):
            each = [file for file in files if has_rows(file) == rows]
            found = read_all(each, encoding, separator, columns)
            if rows:
                found = _as_pieces(lambda found=found: found, kind)
            yield from mark_ends(found, rows) if ends else found

    held = {
        split: partial(taken, files[split]) for split in ("val", "test") if split in files
    }
    marks = {split: fingerprint(each) for split, each in sorted(files.items())}
    if path is None or path.startswith(HUB):
        source, key = topics, [path, columns.text, documents, marks] if marks else None
        if path is not None:
            splits = hub_splits(path, cache)
            stream = partial(stream_documents, path, columns.text, documents)
            source = partial(stream, splits.get("train", ["train"]))
            theirs = {one: splits[one] for one in ("val", "test") if one in splits}
            held = {k: partial(_as_pieces, partial(stream, each), kind, ends)
                    for k, each in theirs.items()} | held  # fmt: skip
            key = [path, columns.text, documents, marks, *([theirs] if theirs else [])]
            notes += tuple(
                f"task 'text': {split} is {', '.join(each)} of {path}, which is not trained on."
                for split, each in theirs.items()
                if split not in files
            )
        return _Text(key, partial(_as_pieces, source, kind, ends), held), notes
    given = [separator, marks, columns.text, columns.source]
    return _Text(given, partial(taken, files["train"]), held), notes


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


def _encode_text(text: _Text, kind: _Kind, val: float, cache: str) -> Encoded:
    if text.key is None:
        with OwnFolder("decentral-") as folder:
            _encode(kind, text, val, folder)
            # Into memory: the folder is gone when this returns.
            return load(folder, mapped=False)
    # The number goes up when what is written changes: older folders are left alone.
    whole = ["text-5", kind.key, val, text.key]
    made = cached_folder(
        cache, "text", whole, lambda made: _encode(kind, text, val, made)
    )
    return load(made, mapped=True)


def _encode(kind: _Kind, text: _Text, val: float, into: Path) -> None:
    if (theirs := kind.of_folder()) is not None:
        tokenizer = theirs
    elif kind.tokens == "bpe":
        # From the training text only, or the vocabulary would know the test.
        learned = (each.text for each in text.segments(val) if each.split == "train")
        tokenizer = pairs(learned, kind.vocabulary, into)
    else:
        tokenizer = _TOKENIZERS[kind.tokens](text.all())
    encode(text.segments(val), tokenizer, into)


def _as_pieces(source: Callable[[], Pieces], kind: _Kind, ends: bool = False) -> Pieces:
    """Yield documents as files would have been read: of bytes, one character for
    each.

    Args:
        source: The documents.
        kind: What a token is.
        ends: Whether the end of each is marked.
    """
    for name, text in mark_ends(source(), rows=True) if ends else source():
        yield name, text.encode().decode("latin-1") if kind.octets else text
