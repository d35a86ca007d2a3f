"""Tokenizers, and text encoded into streams of tokens in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.tasks._corpus import Pieces, Segment

SPLITS: tuple[str, ...] = ("train", "val", "test")


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
        return np.searchsorted(points, np.frombuffer(text.encode("utf-32-le"), np.uint32))

    return Tokenizer(encode, len(points))


def octets(pieces: Pieces) -> Tokenizer:
    """Take every byte as it is, from text that was read as latin-1."""
    return Tokenizer(lambda text: np.frombuffer(text.encode("latin-1"), np.uint8), 256)


def pairs(texts: Iterable[str], size: int, into: Path) -> Tokenizer:
    """Learn byte-pair encoding of ``size`` tokens, and keep it in a folder as tokenizer.json."""
    try:
        import tokenizers as hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "task 'text': tokens=bpe needs tokenizers: pip install -c constraints.txt -e '.[lm]'."
        ) from error
    learned: Any = hub.Tokenizer(hub.models.BPE())
    learned.pre_tokenizer = hub.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_ = hub.pre_tokenizers.ByteLevel.alphabet()
    trainer = hub.trainers.BpeTrainer(vocab_size=size, initial_alphabet=bytes_, show_progress=False)
    learned.train_from_iterator(texts, trainer)
    learned.save(str(into / "tokenizer.json"))
    return Tokenizer(lambda text: np.array(learned.encode(text).ids), learned.get_vocab_size())


def encode(segments: Iterable[Segment], tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokens of every split, and where in train each source and chunk begins."""
    ends = dict.fromkeys(SPLITS, 0)
    marks: list[tuple[int, str, int]] = []
    with ExitStack() as stack:
        files = {s: stack.enter_context((folder / f"{s}.bin").open("wb")) for s in SPLITS}
        for segment in segments:
            tokens = tokenizer.encode(segment.text).astype(np.int32)
            if segment.split == "train" and len(tokens):
                marks.append((ends["train"], segment.source, segment.chunk))
            ends[segment.split] += len(tokens)
            files[segment.split].write(tokens.tobytes())
    facts = {"vocabulary": tokenizer.size, "marks": marks}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


@dataclass(frozen=True)
class Encoded:
    """Tokens of every split, in memory or mapped; ``marks`` are (first token, source, chunk)."""

    streams: dict[str, NDArray[np.int32]]
    vocabulary: int
    marks: list[tuple[int, str, int]]
    mapped: bool


def load(folder: Path, mapped: bool) -> Encoded:
    """Load what ``encode`` wrote; mapped files are read as they are needed."""
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    streams = {split: _stream(folder / f"{split}.bin", mapped) for split in SPLITS}
    return Encoded(streams, facts["vocabulary"], [tuple(mark) for mark in facts["marks"]], mapped)


def _stream(file: Path, mapped: bool) -> NDArray[np.int32]:
    if mapped and file.stat().st_size:  # an empty file cannot be mapped
        return np.memmap(file, np.int32, "c")
    return np.fromfile(file, np.int32)
