"""Tokenizers: characters, bytes, pairs learned from a text, and those of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError, in_words, install_command

#: Pieces of text in order, each with the name of the source that it continues or
#: begins.
Pieces = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Tokenizer:
    """From text to token numbers below ``size``; ``alphabet`` is what it takes to write
    them as text again: its characters, or the content of tokenizer.json; none: bytes.
    """

    encode: Callable[[str], NDArray[Any]]
    size: int
    alphabet: str = ""
    #: The token that ends a document, if there is one.
    end: int | None = None
    #: Bytes of a text.
    measure: Callable[[str], int] = lambda text: len(text.encode())


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

    return Tokenizer(encode, len(points), "".join(map(chr, points)))


def octets(pieces: Pieces) -> Tokenizer:
    """Take every byte as it is, from text that was read as latin-1."""
    return Tokenizer(
        lambda text: np.frombuffer(text.encode("latin-1"), np.uint8), 256, measure=len
    )


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
            f"task 'text': tokens=bpe needs tokenizers: {install_command('lm')}."
        ) from error
    learned: Any = hub.Tokenizer(hub.models.BPE())
    learned.pre_tokenizer = hub.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = hub.decoders.ByteLevel()
    bytes_ = hub.pre_tokenizers.ByteLevel.alphabet()
    trainer = hub.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=bytes_, show_progress=False
    )
    learned.train_from_iterator(texts, trainer)
    learned.save(str(into / "tokenizer.json"))
    return Tokenizer(
        lambda text: np.array(learned.encode(text).ids),
        learned.get_vocab_size(),
        learned.to_str(),
    )


@dataclass(frozen=True)
class Spelling:
    """Between the text of people and tokens, by the alphabet of a tokenizer."""

    alphabet: str
    vocabulary: int

    @property
    def _pieces(self) -> Any:
        """The tokenizer of a library; None: tokens are characters or bytes."""
        if not self.alphabet or len(self.alphabet) == self.vocabulary:
            return None
        import tokenizers as hub  # pyright: ignore[reportMissingImports]

        return hub.Tokenizer.from_str(self.alphabet)

    def read(self, text: str) -> list[int]:
        """Return the tokens of a text; raises ConfigError where there are none."""
        if (pieces := self._pieces) is not None:
            found: list[int] = list(pieces.encode(text, add_special_tokens=False).ids)
        elif self.alphabet:
            if unknown := sorted(set(text) - set(self.alphabet)):
                raise ConfigError(
                    f"task 'text': prompts: the training text has no {unknown[0]!r}, and so no "
                    f"token for {text!r}; begin otherwise, or take tokens=byte."
                )
            found = [self.alphabet.index(one) for one in text]
        else:
            found = list(text.encode())
        if not found:
            raise ConfigError(
                f"task 'text': prompts: {text!r} has no token; give text, or [] for no samples."
            )
        return found

    def write(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; bytes that are no character show as such."""
        if (pieces := self._pieces) is not None:
            return str(pieces.decode(list(tokens), skip_special_tokens=False))
        if self.alphabet:
            return "".join(self.alphabet[one] for one in tokens)
        return bytes(tokens).decode(errors="replace")


# --- of a folder ------------------------------------------------------------------

#: Stands at the end of a document, and becomes its last token. One character, so
#: that no cut goes through it: the name of such a token would have several.
END = "\x1e"

#: What every tokenizer of English makes some tokens of.
_PROBE = "The quick brown fox"


def load_pieces(path: Path) -> Any:
    """Return the tokenizer of a folder as its library reads it.

    Args:
        path: The folder.
    """
    try:
        import tokenizers as hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task 'text': tokenizer=FOLDER needs tokenizers: {install_command('lm')}."
        ) from error
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"task 'text': {path} has no tokenizer.json; write it by "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    try:
        return hub.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise _no_tokenizer(path, error) from error


def _no_tokenizer(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"task 'text': {path / 'tokenizer.json'} is no tokenizer ({in_words(error, 100)})."
    )


def folder_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a folder as transformers writes it.

    Only ``tokenizer.json`` is read, which is data; what ends a document is said by
    ``tokenizer_config.json``.

    Args:
        path: The folder.
    """
    read = load_pieces(path)
    try:
        # Samples are cut here, and names of tokens within a text are text.
        read.no_truncation()
        read.no_padding()
        read.encode_special_tokens = True
        some: list[int] = read.encode(_PROBE, add_special_tokens=False).ids
    except Exception as error:  # tokenizers raises plain Exception
        raise _no_tokenizer(path, error) from error
    if not some:
        raise ConfigError(
            f"task 'text': the tokenizer of {path} turns every text into nothing; its files "
            "are not whole."
        )
    end = _end_of(path, read)

    def encode(text: str) -> NDArray[Any]:
        parts = read.encode_batch(text.split(END), add_special_tokens=False)
        found: list[int] = list(parts[0].ids)
        for part in parts[1:]:
            found += [*([] if end is None else [end]), *part.ids]
        return np.array(found, dtype=np.int32)

    return Tokenizer(encode, read.get_vocab_size(), read.to_str(), end)


def _end_of(path: Path, tokenizer: Any) -> int | None:
    """Return the token that ends a document: that of sequences, or of sentences."""
    about = path / "tokenizer_config.json"
    said: dict[str, Any] = json.loads(about.read_text("utf-8")) if about.is_file() else {}
    for key in ("eos_token", "sep_token"):
        named = said.get(key)
        name = named.get("content") if isinstance(named, dict) else named
        if isinstance(name, str):
            found: int | None = tokenizer.token_to_id(name)
            return found
    return None
