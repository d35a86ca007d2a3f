"""The samples of a split, as stored and as a model sees them, and what follows from
the data.

That is who owns them, and which classes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.errors import ConfigError, in_words
from decentral.pytree import Tree, first_leaf, tree_cat, tree_map
from decentral.tasks.arrays import Held, Keys, Values, is_text, values_of
from decentral.tasks.data import parts_of, read
from decentral.tasks.labels import check_numbers, from_text, in_order, occurring, places

# --- of a split -------------------------------------------------------------------


#: What a model sees of stored inputs [..., *stored]: (inputs, keys [...] or None)
#: -> floats [..., *seen]. Keys are given in training, one per sample visit; a view
#: may draw from them.
View = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Samples:
    """Inputs [m, ...] and targets [m, ...] of one split as stored, in memory or
    mapped from a file.

    Several inputs, or targets of several kinds, are tuples of tensors, or tensors
    by name. What is taken from them is what a model sees: through ``view`` where
    there is one, integers as int64.
    """

    inputs: Tree
    targets: Tree
    view: View | None = None
    dtype: torch.dtype | None = None  # of what a view returns; None: as it does
    mapped: bool = False  # whether inputs are read from a file as they are needed

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(first_leaf(self.inputs))

    @cached_property
    def device(self) -> torch.device:
        """Where the samples are."""
        return first_leaf(self.inputs).device

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """Return the samples on a device, floating inputs and targets in the run's
        precision.
        """

        def cast(tensor: Tensor) -> Tensor:
            floating = tensor.is_floating_point()
            return tensor.to(device, dtype) if floating else tensor.to(device)

        inputs, targets = tree_map(cast, self.inputs), tree_map(cast, self.targets)
        return replace(self, inputs=inputs, targets=targets, dtype=dtype)

    @property
    def first(self) -> Tree:
        """The first input as a model sees it, [1, ...]."""
        return self.take(torch.zeros(1, dtype=torch.int64))[0]

    def subset(self, index: Tensor) -> Samples:
        """Return the samples at ``index`` [k]."""
        inputs, targets = (tree_map(lambda t: t[index], part) for part in self._parts)
        return replace(self, inputs=inputs, targets=targets)

    def between(self, start: int, stop: int) -> Samples:
        """Return the samples from ``start`` to before ``stop``; they stay where
        they are.
        """
        inputs, targets = (
            tree_map(lambda t: t[start:stop], part) for part in self._parts
        )
        return replace(self, inputs=inputs, targets=targets)

    def take(self, index: Tensor, keys: Tensor | None = None) -> tuple[Tree, Tree]:
        """Return inputs and targets at ``index`` [...]; ``keys`` [...] say that it
        is training.
        """
        flat = index.flatten().to(self.device)

        def at(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, flat).unflatten(0, index.shape)

        # Integers are int64 to a loss, whatever they are stored in.
        if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
            # What nearly every step takes: nothing to walk through.
            return self._apply_view(at(self.inputs), keys), _wide(at(self.targets))
        inputs, targets = tree_map(at, self.inputs), tree_map(at, self.targets)
        return self._apply_view(inputs, keys), tree_map(_wide, targets)

    def chunks(self, size: int) -> Iterator[tuple[Tree, Tree]]:
        """Yield all inputs and targets in order, at most ``size`` samples at a
        time.

        No chunk holds one sample where there are more: layers that normalise over
        the batch, which may do so in evaluation, too, refuse it.
        """
        stops = list(range(size, len(self), size))
        # The last chunk takes one sample of the one before.
        if stops and len(self) - stops[-1] == 1 and size > 2:
            stops[-1] -= 1
        begin = 0
        for stop in (*stops, len(self)):
            some = slice(begin, stop)
            inputs, targets = (
                tree_map(lambda t, s=some: t[s], part) for part in self._parts
            )
            yield self._apply_view(inputs, None), tree_map(_wide, targets)
            begin = stop

    @property
    def _parts(self) -> tuple[Tree, Tree]:
        return self.inputs, self.targets

    def _apply_view(self, inputs: Tree, keys: Tensor | None) -> Tree:
        if self.view is None:
            return (
                _wide(inputs) if isinstance(inputs, Tensor) else tree_map(_wide, inputs)
            )
        seen = self.view(inputs, keys)
        return seen if self.dtype is None else seen.to(self.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """Return integers as int64, whatever they are stored in."""
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.long()


# --- what follows from data -------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was read of all splits, and what was found there."""

    samples: dict[str, Samples]
    owners: Values | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def read_splits(
    given: Mapping[str, Any], keys: Keys, classes: Sequence[str] | None
) -> Found:
    """Read what is given of every split; what is samples already stays as it is.

    Args:
        given: The data of every split that there is.
        keys: How to read them.
        classes: The names of the classes, where the user gave them.
    """
    ready = {split: data for split, data in given.items() if isinstance(data, Samples)}
    # All splits before any class is numbered: a label may occur in the test only.
    held = {k: _whole(data, k, keys) for k, data in given.items() if k not in ready}
    for split, one in held.items():
        check_numbers(one, split)
    text = {split: one.targets for split, one in held.items() if is_text(one.targets)}
    if text:
        numbers, classes = from_text(text, classes)
        held = {
            k: replace(one, targets=numbers.get(k, one.targets))
            for k, one in held.items()
        }
    made = {split: Samples(one.inputs, one.targets) for split, one in held.items()}
    return Found(
        samples={**ready, **made},
        owners=held["train"].owners if "train" in held else None,
        classes=tuple(classes) if classes else None,
        notes=tuple(note for one in held.values() for note in one.notes),
    )


def _whole(data: Any, split: str, keys: Keys) -> Held:
    """Read a split: of all nodes together, or in a part for each."""
    parts = parts_of(data)
    if parts is None:
        return read(data, split, keys)
    held = [read(part, f"{split}, node {node}", keys) for node, part in enumerate(parts)]
    try:
        inputs = tree_cat([one.inputs for one in held])
        if is_text(held[0].targets):
            targets: Any = np.concatenate([one.targets for one in held])
        else:
            targets = tree_cat([one.targets for one in held])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"task: {split}: the data of the nodes differ in form ({in_words(error, 100)}); give "
            "every node inputs and targets like those of the first."
        ) from error
    sizes = torch.tensor([one.size for one in held])
    owners = torch.arange(len(held)).repeat_interleave(sizes)
    return Held(
        inputs,
        targets,
        owners,
        held[0].columns,
        tuple(n for one in held for n in one.notes),
    )


def owners_of(given: Any, column: Values | None, size: int) -> tuple[Tensor | None, str]:
    """Return the node of every sample, and what is to be said of it.

    Numbers that are given are ids of nodes; values of a column, and text, are
    numbered in order.

    Args:
        given: What the task says: ids, or the name of a column.
        column: The owners that the data hold.
        size: How many samples there are.
    """
    if isinstance(given, str) and column is None:
        raise ConfigError(
            f"task: owners {given!r} is the name of a column, and train has none of that name."
        )
    if given is not None and not isinstance(given, str):
        if column is not None:
            raise ConfigError("task: train is given node by node, so leave owners out.")
        ids = values_of(given, "task: owners")
        if not is_text(ids):
            return _check_ids(ids, size, "owners"), ""
        column = ids
    if column is None:
        return None, ""
    # Sorted, so that a node does not depend on the order of the samples.
    names, index = np.unique(np.asarray(column), return_inverse=True)
    counted = not is_text(column) and bool((names == np.arange(len(names))).all())
    who = f"the nodes are the {len(names)} owners, {in_order(names.tolist(), 'node')}."
    note = "" if counted else who
    return _check_ids(torch.from_numpy(index), size, "owners"), note


def _check_ids(ids: Any, size: int, what: str) -> Tensor:
    if ids.dim() != 1 or len(ids) != size or ids.is_floating_point():
        raise ConfigError(
            f"task: {what} have shape {list(ids.shape)} and type {ids.dtype}; give one whole "
            f"number for each of the {size} training samples."
        )
    return ids.long()


def labels_of(
    given: Any, classes: tuple[str, ...] | None, size: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels that splits divide by as numbers from 0, and the names of
    these.

    Args:
        given: One label of every training sample.
        classes: Their names, where the user gave them; else what occurs.
        size: How many training samples there are.
    """
    values = values_of(given, "task: labels")
    if is_text(values):
        named, classes = from_text({"labels": np.asarray(values)}, classes)
        values = named["labels"]
    labels = _check_ids(values, size, "labels")
    if classes is None:
        known = occurring([labels])
        return places(labels, known), tuple(map(str, known.tolist()))
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise ConfigError(
            f"task: label {int(wrong[0])} has no name; {len(classes)} classes are named."
        )
    return labels, classes


def is_ignored(targets: Any, ignored: int | None) -> Tensor | None:
    """Return which samples have no target that counts, None where all do.

    Args:
        targets: Targets [m, ...].
        ignored: The target that is left out.
    """
    if ignored is None or not is_whole(targets):
        return None
    out = (targets == ignored).view(len(targets), -1).all(1)
    return out if bool(out.any()) else None


def is_whole(targets: Any) -> bool:
    """Tell whether targets are one tensor of whole numbers."""
    plain = isinstance(targets, Tensor)
    return plain and not targets.is_floating_point() and not targets.is_complex()


def number_classes(samples: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return samples of all splits whose labels are numbers of classes from 0."""
    known = occurring([one.targets for one in samples.values()])
    return {
        k: replace(one, targets=places(one.targets, known)) for k, one in samples.items()
    }


def numbering(known: Tensor) -> str:
    """Say which label is which class."""
    return f"classes are the {len(known)} labels that occur: {in_order(known.tolist(), 'class')}."


def split_held_out(
    samples: Samples, groups: Sequence[Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """Return which samples are kept and which, a fifth, are held out, both in
    order.

    Of every group about a fifth is drawn.

    Args:
        samples: The samples.
        groups: What each belongs to, such as its class and its owner, each [m].
        seed: What the draw depends on.
    """
    size = len(samples)
    if size < 2:
        raise ConfigError(
            "task: train has 1 sample, and no test is given; give more, or test=."
        )
    table = np.stack([np.zeros(size, np.int64), *(group.numpy() for group in groups)])
    group = np.unique(table, axis=1, return_inverse=True)[1].ravel()
    chance = rng.uniform(seed, "task/holdout", np.arange(size))
    # Group by group, drawn within each.
    order, counts = np.lexsort((chance, group)), np.bincount(group)
    rank = np.empty(size)
    # The place of a sample within its group, from 0.
    rank[order] = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)
    # The place of a sample within its group, in 0..1: what comes first of every
    # group is held out.
    share = (rank + 0.5) / counts[group]
    held = np.zeros(size, dtype=bool)
    held[np.lexsort((chance, share))[: max(1, size // 5)]] = True
    kept, out = (torch.from_numpy(np.nonzero(mask)[0]) for mask in (~held, held))
    return kept, out
