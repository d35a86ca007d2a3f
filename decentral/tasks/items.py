"""Samples one by one: lists, data sets and loaders of torch, streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from decentral.blame import words_and_place
from decentral.errors import ConfigError
from decentral.pytree import tree_cat
from decentral.tasks.arrays import (
    Held,
    Keys,
    describe,
    is_array,
    is_from,
    itself,
    refuse_text,
    stack_values,
    targets_of,
)
from decentral.units import format_bytes

#: Bytes of a stream that are read at most.
STREAM_BYTES = 4_000_000_000


def from_items(source: Any, split: str, keys: Keys) -> Held:
    """Read a list, a map-style data set or a stream, sample by sample.

    Args:
        source: The samples.
        split: train, val or test, for messages.
        keys: What the target is called in samples that are mappings, and how long
            streams are.
    """
    items, note = take_samples(source, split, keys)
    if not items:
        raise ConfigError(
            f"task: {split} has 0 inputs and 0 targets; give at least 1 of each."
        )
    pairs = [_pair(item, place, split, keys) for place, item in enumerate(items)]
    alone = pairs[0][1] is pairs[0][0]
    inputs = _collate([one for one, _ in pairs], f"task: {split}, inputs")
    refuse_text(inputs, f"task: {split}, inputs")
    targets = (
        inputs
        if alone
        else _collate([one for _, one in pairs], f"task: {split}, targets")
    )
    held = Held(inputs, targets)
    said = [note, itself(split) if alone else ""]
    if not note and not isinstance(source, list):
        # Who gives a data set may expect it to be read, and to draw anew, in every
        # epoch.
        said += _read_once(held, source, split), _describe_draws(source, items[0], split)
    return replace(held, notes=tuple(filter(None, said)))


def _read_once(held: Held, source: Any, split: str) -> str:
    size = sum(tensor.numel() * tensor.element_size() for tensor in held.tensors())
    kind = type(source).__name__
    return (
        f"{split}: {held.size:,} samples of {kind}, read once, take {format_bytes(size)}."
    )


def _describe_draws(source: Any, first: Any, split: str) -> str:
    """Say where a data set draws, such as crops of images: it is read once only."""
    if _equal(source[0], first):
        return ""
    return f"{split}: a sample differs from one reading to the next, and was read once."


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        named = cast("Mapping[str, Any]", one)
        return all(_equal(value, other[key]) for key, value in named.items())
    if isinstance(one, list | tuple):
        return all(map(_equal, cast("Sequence[Any]", one), other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def take_samples(source: Any, split: str, keys: Keys) -> tuple[list[Any], str]:
    """Return the samples of a source, and a remark on how far a stream was read.

    Args:
        source: A list, a data set, or anything that yields samples.
        split: train, val or test, for messages.
        keys: How many samples of a stream are read at most.
    """
    where = f"task: {split}"
    sized = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if sized and not isinstance(source, IterableDataset | str | bytes):
        places = range(_call_user(len, source, f"{where}, its length,"))
        return [
            _call_user(source.__getitem__, i, f"{where}, sample {i},") for i in places
        ], ""
    if not hasattr(source, "__iter__") or isinstance(source, str | bytes):
        raise ConfigError(
            f"{where} is {describe(source)}; give a pair of arrays, a table, a data set or a "
            "loader of torch, or a list of (input, target)."
        )
    stream = _call_user(iter, source, where)
    found: list[Any] = []
    room = STREAM_BYTES
    while len(found) < keys.stream and room > 0:
        # The stream itself says that it has ended: any other value may be a sample.
        item = _call_user(
            lambda _: next(stream, stream), None, f"{where}, sample {len(found)},"
        )
        if item is stream:
            return found, f"{split}: all {len(found):,} samples of a stream were read."
        found.append(item)
        room -= _bytes(item)
    return found, (
        f"{split}: the first {len(found):,} samples of a stream were read, "
        f"{format_bytes(STREAM_BYTES - room)}; Task(stream=...) says how many at most."
    )


def _call_user(run: Callable[[Any], Any], given: Any, what: str) -> Any:
    """Return what a user's data set or function returns; what it raises becomes a
    ConfigError.
    """
    try:
        return run(given)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} raised {words_and_place(error)}.") from error


def _bytes(item: Any) -> int:
    """Return about how many bytes a sample takes."""
    if isinstance(item, Mapping):
        return sum(map(_bytes, cast("Mapping[str, Any]", item).values()))
    if isinstance(item, list | tuple):
        return sum(map(_bytes, cast("Sequence[Any]", item)))
    return int(getattr(item, "nbytes", 64))


def _pair(item: Any, place: int, split: str, keys: Keys) -> tuple[Any, Any]:
    """Return inputs and target of one sample: the same, where it is its own target."""
    if isinstance(item, Mapping):
        named = dict(cast("Mapping[str, Any]", item))
        first, *more = (named.pop(name) for name in targets_of(named, split, keys))
        target = np.stack([np.asarray(one) for one in (first, *more)]) if more else first
        return (next(iter(named.values())) if len(named) == 1 else named), target
    if isinstance(item, list | tuple) and item:
        *first, target = cast("Sequence[Any]", item)
        return (first[0] if len(first) == 1 else tuple(first) or target), target
    if is_array(item) or is_from(item, "PIL.Image"):
        return item, item
    raise ConfigError(
        f"task: {split}, sample {place}, is {describe(item)}; a sample is (input, target), or a "
        "mapping that names its target."
    )


def _collate(samples: Sequence[Any], where: str) -> Any:
    """Return values of all samples, in the structure of the first."""
    first = samples[0]
    try:
        if isinstance(first, Mapping):
            named = cast("Mapping[str, Any]", first)
            return {
                k: _collate([one[k] for one in samples], f"{where}, {k!r}") for k in named
            }
        if isinstance(first, tuple):
            return tuple(_collate(part, where) for part in zip(*samples, strict=True))
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: not every sample holds what the first does, {describe(first)}."
        ) from error
    return stack_values(samples, where)


# --- loaders ----------------------------------------------------------------------


def dataset_of(loader: Any, split: str) -> Any:
    """Return the samples that a loader would read; raises ConfigError for samplers
    that weigh.
    """
    data, sampler = loader.dataset, loader.sampler
    if isinstance(data, IterableDataset):
        return data
    # Exactly torch's: a class derived from it may choose samples in its own way.
    plain = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    if plain and type(sampler) is SubsetRandomSampler:
        return Subset(data, list(sampler.indices))
    if plain and type(sampler) in (SequentialSampler, RandomSampler):
        return data
    kind = type(sampler if plain else loader.batch_sampler).__name__
    raise ConfigError(
        f"task: {split}: a DataLoader with {kind} cannot be taken, since nodes draw samples of "
        "their own; give its dataset (torch.utils.data.Subset for a part of it)."
    )


def collate_loader(
    loader: Any, split: str, keys: Keys, batch: Callable[[Any], Held]
) -> Held:
    """Read a loader through its collate function, all samples at once.

    So what it pads has one length. A loader without batches has them for samples.

    Args:
        loader: The loader.
        split: train, val or test, for messages.
        keys: How to read.
        batch: Reads one batch.
    """
    items, note = take_samples(dataset_of(loader, split), split, keys)
    what = f"task: {split}: the loader's collate_fn"
    if loader.batch_size is None:
        found = [_call_user(loader.collate_fn, item, what) for item in items]
        if _is_sample(found[0]):
            return from_items(found, split, keys)
        parts = [batch(one) for one in found]
        return replace(_join(parts), notes=(note,) if note else ())
    # All samples in one call: padding depends on what is collated together.
    held = batch(_call_user(loader.collate_fn, items, what))
    if held.size != len(items):
        raise ConfigError(
            f"{what} makes {held.size} of {len(items)} samples; the first dimension of what it "
            "returns must be that of the samples."
        )
    return replace(held, notes=(*held.notes, *([note] if note else ())))


def _is_sample(item: Any) -> bool:
    """Tell a sample from a batch: its target, or another part of it, is one number."""
    if isinstance(item, Mapping):
        item = list(cast("Mapping[str, Any]", item).values())
    if isinstance(item, list | tuple):
        return any(map(_is_sample, cast("Sequence[Any]", item)))
    return np.ndim(item) == 0


def _join(parts: Sequence[Held]) -> Held:
    inputs = tree_cat([one.inputs for one in parts])
    return Held(inputs, tree_cat([one.targets for one in parts]))
