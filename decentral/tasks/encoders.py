"""What models learn that read whole texts: tokens that are hidden, and classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral import rng
from decentral.errors import ConfigError, nearest
from decentral.tasks.base import Task, holdout
from decentral.tasks.documents import has_rows, read_rows
from decentral.tasks.samples import Samples
from decentral.tasks.tokens import load_pieces

#: Of the tokens that are to be found, how many are hidden, and how many are another.
HIDDEN, OTHER = 0.8, 0.1
#: Targets that do not count.
IGNORED = -100


# --- tokens that are hidden -------------------------------------------------------


@dataclass(frozen=True)
class Masks:
    """Which tokens of a text are hidden: functions of seed, split and place."""

    share: float
    seed: int
    token: int  # stands for a hidden one
    spared: frozenset[int]  # tokens that are no text: what ends, begins and fills one
    vocabulary: int
    fill: int | None = None  # what encoders do not look at

    def apply(self, samples: Samples, split: str) -> Samples:
        """Return samples some of whose tokens are to be found; no other is a target.

        Of those 80 % are hidden, 10 % are another token and 10 % are left as they are.
        (Devlin et al., "BERT", NAACL 2019.)

        Args:
            samples: Of next tokens; what fills them up has no target.
            split: Name of the split.
        """
        read, following = samples.take(torch.arange(len(samples)))
        tokens: NDArray[np.int64] = read.numpy().astype(np.int64)
        text = ~np.isin(tokens, list(self.spared))
        # What fills a sample up begins behind its last target.
        filled = following.numpy()[:, :-1] == IGNORED
        text[:, 1:] &= ~filled
        if self.fill is not None:
            tokens[:, 1:][filled] = self.fill
        places = np.arange(len(tokens))[:, None], np.arange(tokens.shape[1])[None, :]
        drawn = rng.uniform(self.seed, f"masked/{split}", *places)
        # At least one of every sample, the one that was nearest to be chosen.
        first = np.where(text, drawn, 2.0).argmin(1)
        chosen = text & (drawn < self.share)
        chosen[np.arange(len(tokens)), first] |= text.any(1)
        how = rng.uniform(self.seed, f"masked/{split}/how", *places)
        other = rng.integers(self.vocabulary, self.seed, f"masked/{split}/other", *places)
        seen = np.where(
            how < HIDDEN, self.token, np.where(how < HIDDEN + OTHER, other, tokens)
        )
        return Samples(
            torch.from_numpy(np.where(chosen, seen, tokens).astype(np.int32)),
            torch.from_numpy(np.where(chosen, tokens, IGNORED).astype(np.int32)),
        )


def special_tokens(folder: Path) -> dict[str, int]:
    """Return the numbers of the special tokens of a tokenizer's folder, by what
    tokenizer_config.json calls them: ``mask_token``, ``pad_token`` and their kin.
    """
    about = folder / "tokenizer_config.json"
    said: dict[str, Any] = json.loads(about.read_text("utf-8")) if about.is_file() else {}
    pieces, found = load_pieces(folder), dict[str, int]()
    for key, value in said.items():
        name = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(name, str):
            number = pieces.token_to_id(name)
            if number is not None:
                found[key] = number
    return found


def masks_of(
    share: float, seed: int, vocabulary: int, end: int | None, folder: Path | None
) -> Masks:
    """Return what hides tokens; without a tokenizer's folder the token that hides is one
    more than there are.

    Args:
        share: Share of the tokens that are to be found.
        seed: Seed of the draws.
        vocabulary: Tokens of the text.
        end: The token that ends a document.
        folder: The tokenizer's.
    """
    special = special_tokens(folder) if folder is not None else {}
    if folder is not None and "mask_token" not in special:
        raise ConfigError(
            f"task 'text': masked needs a token that hides others, and tokenizer_config.json of "
            f"{folder} names no mask_token; take the tokenizer of a masked language model."
        )
    ends = set() if end is None else {end}
    hidden = special.get("mask_token", vocabulary)
    spared = frozenset({*ends, *special.values()})
    return Masks(share, seed, hidden, spared, vocabulary, special.get("pad_token"))


# --- classes of texts -------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Tables whose rows are a text and its class."""

    column: str
    label: str

    def read(self, files: Iterable[Path]) -> tuple[list[str], list[int | str]]:
        """Return the texts of some tables, and their labels."""
        texts, labels, files = list[str](), list[int | str](), list(files)
        if other := [file for file in files if not has_rows(file)]:
            raise ConfigError(
                f"task 'text': label names a column, and {other[0]} has none; give *.jsonl, "
                "*.parquet, or a folder of datasets."
            )
        for where, row in read_rows(files, self.column):
            value = row.get(self.label)
            if not isinstance(value, int | str):
                known = "" if self.label in row else nearest(self.label, row)
                raise ConfigError(
                    f"task 'text': {where} has no class in column {self.label!r}, but "
                    f"{value!r}; expected a whole number or a text.{known}"
                )
            texts.append(row[self.column])
            labels.append(value)
        return texts, labels


def classes_task(
    files: Mapping[str, Sequence[Path]],
    tables: Labelled,
    folder: Path,
    context: int,
    val: float,
    notes: tuple[str, ...],
) -> Task:
    """Return the task to tell the class of a text, of which ``context`` tokens are read.

    Args:
        files: Tables by split.
        tables: Their columns.
        folder: Of the tokenizer, which puts its special tokens around every text.
        context: Tokens of a sample, special ones included.
        val: Share of the training samples that is for validation.
        notes: What is to be said about the files.
    """
    read = _Reader(folder, context)
    found = {split: tables.read(each) for split, each in files.items()}
    known = {label for _, labels in found.values() for label in labels}
    # Numbers by their value: 10 comes behind 9.
    names = sorted(known, key=lambda one: (isinstance(one, str), one))
    number = {name: place for place, name in enumerate(names)}
    if len({str(name) for name in names}) < len(names) or len(names) < 2:
        listed = ", ".join(map(repr, names[:4]))
        raise ConfigError(
            f"task 'text': column {tables.label!r} holds the classes {listed}; expected two or "
            "more, all of different names."
        )
    parts = {
        split: Samples(read(texts), torch.tensor([number[label] for label in labels]))
        for split, (texts, labels) in found.items()
    }
    if val and "val" not in parts:
        parts["train"], held = holdout(parts["train"], val)
        parts |= {"val": held} if held is not None else {}
    return Task(
        loss=cross_entropy, train=parts["train"], test=parts.get("test"),
        val=parts.get("val"), classes=tuple(map(str, names)), outputs=len(names), notes=notes,
    )  # fmt: skip


class _Reader:
    """Makes tokens of texts, as models of sequences have learned to read them."""

    def __init__(self, folder: Path, context: int) -> None:
        """Read a tokenizer.

        Args:
            folder: Where it lies.
            context: Tokens of a sample.
        """
        self.context, special = context, special_tokens(folder)
        self.pieces = load_pieces(folder)
        self.pieces.no_padding()
        self.pieces.enable_truncation(context)
        fill = special.get("pad_token", special.get("eos_token"))
        if fill is None:
            raise ConfigError(
                f"task 'text': tokenizer_config.json of {folder} names no pad_token, which fills "
                "up short texts; write it by save_pretrained of the tokenizer."
            )
        self.fill = fill

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, int32 [m, context]."""
        found = np.full((len(texts), self.context), self.fill, np.int32)
        for row, each in zip(found, self.pieces.encode_batch(list(texts)), strict=True):
            row[: len(each.ids)] = each.ids
        return torch.from_numpy(found)
