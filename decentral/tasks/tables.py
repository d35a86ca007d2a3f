"""Tables: frames of pandas and polars, tables of pyarrow, data sets of Hugging Face, mappings.

Their libraries are optional: they are known by the names of their types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from decentral.errors import ConfigError
from decentral.pytree import Tree
from decentral.tasks.arrays import Values, is_from, is_text, stacked, values_of
from decentral.tasks.held import Held, Keys, refuse_text, target_of

_FRAMES = ("pandas.DataFrame", "polars.DataFrame")
_SPLITS = {"train", "test", "val", "valid", "validation", "dev"}


def is_frame(source: object) -> bool:
    """Tell whether this is a data frame."""
    return is_from(source, *_FRAMES)


def columns_of(source: Any, split: str) -> dict[str, Any] | None:
    """Return the columns of a table by name, None of anything else."""
    if is_from(source, "pandas.DataFrame"):
        return {str(name): source.iloc[:, i] for i, name in enumerate(source.columns)}
    if is_from(source, "polars.DataFrame"):
        return {column.name: column for column in source.get_columns()}
    if is_from(source, "pyarrow.Table"):
        return dict(zip(source.column_names, source.columns, strict=True))
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
    return {str(key): value for key, value in named.items()}


def _hub_columns(source: Any) -> dict[str, Any]:
    """Return the columns of a Hugging Face data set; images as its samples hold them."""
    kinds = {name: type(kind).__name__ for name, kind in source.features.items()}
    plain = source.with_format(None)
    pictures = {name: list(plain[name]) for name, kind in kinds.items() if kind == "Image"}
    rest = [name for name in source.column_names if name not in pictures]
    others = source.select_columns(rest).with_format("numpy")[:] if rest else {}
    return {name: {**others, **pictures}[name] for name in source.column_names}


def from_columns(columns: Mapping[str, Any], split: str, keys: Keys) -> Held:
    """Read a table: one column is the target, another may name the owners, the rest are inputs.

    Args:
        columns: The values of every column.
        split: train, val or test, for messages.
        keys: Which columns hold the targets and the owners.
    """
    where = f"task: {split}, column"
    found = {name: _column(values, f"{where} {name!r}") for name, values in columns.items()}
    owners = found.pop(keys.owners) if keys.owners in found else None
    name = target_of(found, split, keys)
    targets = found.pop(name)
    if not found:
        raise ConfigError(f"task: {split} holds nothing but its targets, {name!r}; add inputs.")
    text = next((name for name, values in found.items() if is_text(values)), "")
    refuse_text(found, f"task: {split}, inputs in column {text!r}")
    numbers = cast("dict[str, Tensor]", found)
    flat = all(values.dim() == 1 for values in numbers.values())
    return Held(inputs_of(numbers), targets, owners, tuple(numbers) if flat else ())


def _column(values: Any, where: str) -> Values:
    if isinstance(values, list) and values and is_from(values[0], "PIL.Image"):
        return stacked(cast("Sequence[Any]", values), where)
    return values_of(values, where)


def inputs_of(columns: dict[str, Tensor]) -> Tree:
    """Return columns of numbers as one matrix, one column as it is, others by their names."""
    if all(values.dim() == 1 for values in columns.values()):
        return matrix(columns)
    return next(iter(columns.values())) if len(columns) == 1 else columns


def matrix(columns: Mapping[str, Tensor]) -> Tensor:
    """Return columns of numbers as a matrix [m, columns] of floating numbers."""
    double = any(values.dtype == torch.float64 for values in columns.values())
    kind = torch.float64 if double else torch.float32
    return torch.stack([values.to(kind) for values in columns.values()], 1)


def frame_matrix(frame: Any, where: str) -> Tensor:
    """Return a frame of inputs alone as a matrix [m, columns]."""
    columns = columns_of(frame, where) or {}
    found = {name: values_of(v, f"{where}, column {name!r}") for name, v in columns.items()}
    text = next((name for name, values in found.items() if is_text(values)), "")
    refuse_text(found, f"{where} in column {text!r}")
    return matrix(cast("dict[str, Tensor]", found))
