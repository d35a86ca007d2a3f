"""Reading data as people hold it, into inputs and targets of all samples.

What is taken: pairs of arrays; tables (frames of pandas and polars, tables of
pyarrow, data sets of Hugging Face, mappings of columns); data sets and loaders of
torch; lists and streams of samples. A sample is (input, target), (several inputs
..., target), a mapping that names its target, or one tensor, which is its own
target. The libraries of tables are optional: they are known by the names of their
types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from decentral.errors import ConfigError
from decentral.pytree import Tree
from decentral.tasks.arrays import (
    Held,
    Keys,
    Values,
    is_array,
    is_from,
    is_text,
    itself,
    refuse_text,
    stack_values,
    targets_of,
    values_of,
)
from decentral.tasks.items import collate_loader, dataset_of, from_items


def read(source: Any, split: str, keys: Keys) -> Held:
    """Read the samples of a split.

    Args:
        source: The data, in any of the forms above.
        split: train, val or test, for messages.
        keys: Names to look for, and the limit for streams.

    Raises:
        ConfigError: It holds no samples, or they do not fit together.
    """
    if isinstance(source, DataLoader):
        held = _from_loader(source, split, keys)
    # Tables before arrays: a frame has ``to_numpy``, too, but its columns have
    # names.
    elif (columns := columns_of(source, split)) is not None:
        held = from_columns(columns, split, keys)
    # Its tensors hold all samples: none has to be asked for by its number.
    elif isinstance(source, TensorDataset):
        held = _from_parts(source.tensors, split)
    elif is_array(source):
        held = _from_parts((source,), split)
    elif _is_parts(source):
        held = _from_parts(source, split)
    else:
        held = from_items(source, split, keys)
    held.check(split)
    return held


def parts_of(source: Any) -> list[Any] | None:
    """Return the data sets of all nodes: of a mapping by node, or a list of data
    sets; else None.

    A list of pairs is a list of samples: give the pairs of nodes as a mapping,
    ``{0: (x, y)}``.
    """
    if isinstance(source, Mapping) and source and all(type(key) is int for key in source):
        named = cast("Mapping[int, Any]", source)
        return [named[key] for key in sorted(named)]
    whole = isinstance(source, list) and all(map(_is_whole, cast("list[Any]", source)))
    return cast("list[Any]", source) if whole and source else None


def _is_whole(source: Any) -> bool:
    """Tell a data set from a sample."""
    return (
        isinstance(source, Dataset | DataLoader)
        or is_frame(source)
        or is_from(source, "datasets.Dataset", "pyarrow.Table")
    )


def _is_parts(source: Any) -> bool:
    """Tell arrays of inputs and targets from a list of samples: a tuple, or a list
    of arrays.
    """
    if isinstance(source, tuple):
        return bool(cast("tuple[Any, ...]", source))
    listed = isinstance(source, list) and len(cast("list[Any]", source)) in (2, 3)
    return listed and all(is_array(part) or _is_numbers(part) for part in source)


def _is_numbers(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], int | float)


def _from_parts(parts: Sequence[Any], split: str) -> Held:
    """Read (inputs, targets), (several inputs ..., targets), or inputs that are
    their targets.
    """
    *first, last = parts
    targets = _arrays(last, f"task: {split}, targets")
    if not first:
        refuse_text(targets, f"task: {split}, inputs")
        return Held(targets, targets, notes=(itself(split),))
    given = first[0] if len(first) == 1 else tuple(first)
    inputs = _arrays(given, f"task: {split}, inputs")
    refuse_text(inputs, f"task: {split}, inputs")
    columns = map(str, getattr(given, "columns", ())) if is_frame(given) else ()
    return Held(inputs, targets, columns=tuple(columns))


def _arrays(given: Any, where: str) -> Any:
    """Return arrays as tensors, in tuples and mappings as they come."""
    if is_frame(given):
        return frame_matrix(given, where)
    if isinstance(given, Mapping):
        named = cast("Mapping[str, Any]", given)
        return {
            str(key): _arrays(part, f"{where}, {key!r}") for key, part in named.items()
        }
    if isinstance(given, tuple):
        return tuple(_arrays(part, where) for part in cast("tuple[Any, ...]", given))
    return values_of(given, where)


def _from_loader(loader: Any, split: str, keys: Keys) -> Held:
    """Read what a loader reads; how it orders and batches samples is the run's own
    business.
    """
    if loader.collate_fn is default_collate:
        # Torch's own collating only stacks samples, which is done here in one go.
        held = read(dataset_of(loader, split), split, keys)
    else:
        held = collate_loader(
            loader, split, keys, lambda batch: _from_batch(batch, split, keys)
        )
    if loader.batch_size is None:
        return held
    note = (
        f"{split}: batches of {loader.batch_size} are the loader's own and are not taken; "
        "batch=... says how many samples a step of a node takes."
    )
    return replace(held, notes=(*held.notes, note))


def _from_batch(batch: Any, split: str, keys: Keys) -> Held:
    if isinstance(batch, Mapping):
        named = {str(k): _arrays(v, f"task: {split}, {k!r}") for k, v in batch.items()}
        parts = {name: named.pop(name) for name in targets_of(named, split, keys)}
        first = next(iter(parts.values()))
        targets = first if isinstance(keys.target, str) else _side_by_side(parts, split)
        return Held(next(iter(named.values())) if len(named) == 1 else named, targets)
    return _from_parts(
        cast("Any", batch) if isinstance(batch, list | tuple) else (batch,), split
    )


# --- tables -----------------------------------------------------------------------


_FRAMES = ("pandas.DataFrame", "polars.DataFrame")
_SPLITS = {"train", "test", "val", "valid", "validation", "dev"}


def is_frame(source: object) -> bool:
    """Tell whether this is a data frame."""
    return is_from(source, *_FRAMES)


def columns_of(source: Any, split: str) -> dict[str, Any] | None:
    """Return the columns of a table by name, None of anything else."""
    if is_from(source, "pandas.DataFrame"):
        # By place: for a name that occurs twice pandas gives a frame, not a column.
        columns = [source.iloc[:, i] for i in range(len(source.columns))]
        return _by_name(source.columns, columns, split)
    if is_from(source, "polars.DataFrame"):
        return {column.name: column for column in source.get_columns()}
    if is_from(source, "pyarrow.Table"):
        return _by_name(source.column_names, source.columns, split)
    if is_from(source, "datasets.Dataset"):
        # A transform of the user's own makes the samples, one by one.
        return None if source.format["type"] == "custom" else _hub_columns(source)
    if not isinstance(source, Mapping):
        return None
    named = cast("Mapping[Any, Any]", source)
    if splits := [key for key in named if key in _SPLITS]:
        raise ConfigError(
            f"task: {split} is a mapping of splits; give them one by one, such as "
            f"Task(train=data[{splits[0]!r}], ...)."
        )
    return _by_name(named, list(named.values()), split)


def _by_name(names: Iterable[Any], columns: Sequence[Any], split: str) -> dict[str, Any]:
    """Return columns by their names as text; raises ConfigError where two have one."""
    known = list(map(str, names))
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise ConfigError(
            f"task: {split} has two columns {twice!r}; rename one, or leave it out."
        )
    return dict(zip(known, columns, strict=True))


def _hub_columns(source: Any) -> dict[str, Any]:
    """Return the columns of a Hugging Face data set; images as its samples hold
    them.
    """
    kinds = {name: type(kind).__name__ for name, kind in source.features.items()}
    # A format of the user's would turn images into arrays of different sizes.
    plain = source.with_format(None)
    pictures = {
        name: list(plain[name]) for name, kind in kinds.items() if kind == "Image"
    }
    rest = [name for name in source.column_names if name not in pictures]
    others = source.select_columns(rest).with_format("numpy")[:] if rest else {}
    return {name: {**others, **pictures}[name] for name in source.column_names}


def from_columns(columns: Mapping[str, Any], split: str, keys: Keys) -> Held:
    """Read a table: one column is the target, another may name the owners, the rest
    are inputs.

    Args:
        columns: The values of every column.
        split: train, val or test, for messages.
        keys: Which columns hold the targets and the owners.
    """
    where = f"task: {split}, column"
    found = {
        name: _column(values, f"{where} {name!r}") for name, values in columns.items()
    }
    owners = found.pop(keys.owners) if keys.owners in found else None
    names = targets_of(found, split, keys)
    parts = {name: found.pop(name) for name in names}
    if not found:
        listed = ", ".join(map(repr, names))
        raise ConfigError(
            f"task: {split} holds nothing but its targets, {listed}; add inputs."
        )
    targets = (
        parts[names[0]] if isinstance(keys.target, str) else _side_by_side(parts, split)
    )
    text = next((name for name, values in found.items() if is_text(values)), "")
    refuse_text(found, f"task: {split}, inputs in column {text!r}")
    numbers = cast("dict[str, Tensor]", found)
    flat = all(values.dim() == 1 for values in numbers.values())
    return Held(inputs_of(numbers), targets, owners, tuple(numbers) if flat else ())


def _side_by_side(parts: Mapping[str, Values], split: str) -> Tensor:
    """Return several target columns as one matrix [m, columns]."""
    for name, values in parts.items():
        if is_text(values) or cast("Tensor", values).dim() != 1:
            raise ConfigError(
                f"task: {split}, column {name!r} is one of several targets, and holds no number "
                "of each sample; give columns of numbers, or one target."
            )
    return matrix(cast("Mapping[str, Tensor]", parts))


def _column(values: Any, where: str) -> Values:
    if isinstance(values, list) and values and is_from(values[0], "PIL.Image"):
        return stack_values(cast("Sequence[Any]", values), where)
    return values_of(values, where)


def inputs_of(columns: dict[str, Tensor]) -> Tree:
    """Return columns of numbers as one matrix, one column as it is, others by their
    names.
    """
    if all(values.dim() == 1 for values in columns.values()):
        return matrix(columns)
    return next(iter(columns.values())) if len(columns) == 1 else columns


def matrix(columns: Mapping[str, Tensor]) -> Tensor:
    """Return columns of numbers as a matrix [m, columns] of floating numbers."""
    # Whole numbers alone become float32, as everything else that models see.
    double = any(values.dtype == torch.float64 for values in columns.values())
    kind = torch.float64 if double else torch.float32
    return torch.stack([values.to(kind) for values in columns.values()], 1)


def frame_matrix(frame: Any, where: str) -> Tensor:
    """Return a frame of inputs alone as a matrix [m, columns]."""
    columns = columns_of(frame, where) or {}
    found = {
        name: values_of(v, f"{where}, column {name!r}") for name, v in columns.items()
    }
    text = next((name for name, values in found.items() if is_text(values)), "")
    refuse_text(found, f"{where} in column {text!r}")
    return matrix(cast("dict[str, Tensor]", found))
