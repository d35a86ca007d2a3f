"""Values as people hold them, turned into tensors, and what was read so of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.errors import ConfigError, nearest
from decentral.pytree import Tree, first_leaf, leaves

# --- values -----------------------------------------------------------------------


#: Numbers, or the text of every sample: labels by name.
Values: TypeAlias = "Tensor | NDArray[Any]"

#: Kinds of numpy types that are numbers to torch: bool, int, unsigned, float,
#: complex.
_NUMBERS = "biufc"


def is_from(value: object, *names: str) -> bool:
    """Tell whether a value is of one of these types, ``package.Class``, without
    importing it.

    >>> is_from(np.zeros(2), "numpy.ndarray"), is_from([], "pandas.DataFrame")
    (True, False)
    """
    # By name along the bases: packages that are not installed need no import to be
    # told.
    found = {
        f"{one.__module__.partition('.')[0]}.{one.__name__}"
        for one in type(value).__mro__
    }
    return not found.isdisjoint(names)


def is_array(value: object) -> bool:
    """Tell whether a value holds numbers of many samples: a tensor, an array, a
    series.
    """
    return isinstance(value, Tensor | np.ndarray) or any(
        hasattr(value, name) for name in ("to_numpy", "toarray")
    )


def is_text(values: object) -> bool:
    """Tell whether what was read is text, which can only name classes."""
    return isinstance(values, np.ndarray)


def values_of(given: object, where: str) -> Values:
    """Return numbers as a tensor, text as an array of it.

    Args:
        given: A tensor, an array, a series, a sparse matrix, or (nested) lists of
            numbers.
        where: What it is, for messages.

    Raises:
        ConfigError: It is neither numbers nor text, or not all of one size.
    """
    if isinstance(given, Tensor):
        dense = given.detach()
        return dense.to_dense() if dense.layout is not torch.strided else dense
    if isinstance(given, Sequence) and given and isinstance(given[0], Tensor):
        return _stack(cast("Sequence[Tensor]", given), where)
    if np.ma.is_masked(given):
        raise ConfigError(
            f"{where} holds masked entries; fill them in, by .filled(...), or leave them out."
        )
    array = _array(given, where)
    if array.dtype.kind == "O":
        array = _unpack(array, where)
    if array.dtype.kind in "UT":
        return array.astype(np.str_)
    if array.dtype.kind not in _NUMBERS:
        raise ConfigError(
            f"{where} holds {array.dtype}; turn it into numbers, or leave it out."
        )
    return _tensor(array)


def _array(given: Any, where: str) -> NDArray[Any]:
    for method in ("to_numpy", "toarray"):
        if hasattr(given, method):
            return np.asarray(getattr(given, method)())
    try:
        return np.asarray(given)
    except ValueError as error:  # lists of different lengths
        raise _uneven(where, given) from error


def _tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, which shares its memory where torch can."""
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    plain = array.dtype.newbyteorder("=")
    writable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    # torch shares memory of native byte order, forward strides and write access
    # only.
    return torch.from_numpy(
        array.astype(plain, copy=not writable or array.dtype != plain)
    )


def _unpack(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return objects as an array of text or of numbers: what pandas keeps of both."""
    found = list(array.flat)
    if all(isinstance(one, str) for one in found):
        return array.astype(np.str_)
    # pandas keeps a column with a missing value as objects; None is no number here.
    kinds = (int, float, np.number, np.bool_)
    odd = [i for i, one in enumerate(found) if not isinstance(one, kinds)]
    if not odd:
        whole = all(isinstance(one, int | np.integer | np.bool_) for one in found)
        return array.astype(np.int64 if whole else np.float64)
    if array.ndim == 1 and all(
        isinstance(one, np.ndarray | list | tuple) for one in found
    ):
        try:
            return np.stack([np.asarray(one) for one in found])
        except ValueError as error:
            raise _uneven(where, found) from error
    raise ConfigError(
        f"{where}, sample {odd[0]}, holds {found[odd[0]]!r}, which is no number; fill it in, "
        "or leave it out."
    )


def _stack(tensors: Sequence[Tensor], where: str) -> Tensor:
    if len({one.shape for one in tensors}) > 1:
        raise _uneven(where, tensors)
    return torch.stack([one.detach() for one in tensors])


def _uneven(where: str, parts: Any) -> ConfigError:
    """Say which sample has another size than the first."""
    sizes = [list(np.shape(_plain(one))) for one in parts]
    odd = next((i for i, size in enumerate(sizes) if size != sizes[0]), 0)
    return ConfigError(
        f"{where}: sample {odd} has shape {sizes[odd]}, the first {sizes[0]}; pad them to one "
        "size, or give a DataLoader whose collate_fn does."
    )


def _plain(one: Any) -> Any:
    try:
        np.shape(one)
    except ValueError:
        return []
    return one


def stack_values(found: Sequence[Any], where: str) -> Values:
    """Return one value of every sample, as an item of a data set holds it, as one.

    Images of Pillow become [channels, height, width] in 0..1, as torchvision's
    ToTensor makes them.
    """
    first = found[0]
    if is_from(first, "PIL.Image"):
        return _stack([_picture(one) for one in found], where)
    if isinstance(first, str | int | float | np.generic):
        return values_of(np.array(found), where)
    if isinstance(first, Tensor):
        return _stack(found, where)
    parts = [values_of(one, where) for one in found]
    if any(is_text(one) for one in parts):
        raise ConfigError(
            f"{where} holds several texts per sample; turn them into numbers."
        )
    return _stack(cast("list[Tensor]", parts), where)


def _picture(image: Any) -> Tensor:
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    tensor = _tensor(pixels).movedim(-1, 0).contiguous()
    # Other types have no range that would be known.
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


def describe(value: object) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Mapping):
        return f"a mapping with keys {', '.join(map(str, list(value)[:6]))}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (
        f" of shape {list(shape)}" if shape is not None else ""
    )


# --- what was read of a split -----------------------------------------------------


#: What the target is called in a table or a mapping, unless its name is given.
TARGETS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Keys:
    """How to read: names within tables and mappings, and the most samples of a
    stream.
    """

    target: str | tuple[str, ...] = ""
    owners: str = ""
    stream: int = 1_000_000


@dataclass(frozen=True)
class Held:
    """What was read: inputs and targets [m, ...] of all samples.

    Targets may be text, which names classes; ``owners`` is the column of that name,
    ``columns`` the names of a table's columns that became one matrix.
    """

    inputs: Tree
    targets: Any
    owners: Values | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of samples."""
        return _count(first_leaf(self.inputs))

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors, text aside."""
        yield from leaves(self.inputs)
        if not is_text(self.targets):
            yield from leaves(self.targets)

    def check(self, split: str) -> None:
        """Raise ConfigError where inputs and targets are not of one number, at
        least 1.
        """
        text = [len(self.targets)] if is_text(self.targets) else []
        wrong = [
            count for count in (*map(_count, self.tensors()), *text) if count != self.size
        ]
        if wrong or self.size < 1:
            raise ConfigError(
                f"task: {split} has {self.size} inputs and {wrong[0] if wrong else self.size} "
                "targets; give as many of one as of the other, at least 1."
            )


def _count(tensor: Tensor) -> int:
    return len(tensor) if tensor.dim() else 0


def itself(split: str) -> str:
    """Say that a split without targets is learned by itself."""
    return f"{split} holds no targets: a model is to return its inputs."


def refuse_text(tree: Any, where: str) -> None:
    """Raise ConfigError for inputs that are text."""
    parts = (
        tree.values()
        if isinstance(tree, dict)
        else tree
        if isinstance(tree, tuple)
        else [tree]
    )
    for part in parts:
        if isinstance(part, dict | tuple):
            refuse_text(part, where)
        elif is_text(part):
            raise ConfigError(
                f"{where} hold text ({str(part.flat[0])[:40]!r}), and a model takes numbers; "
                "tokenize or encode it, or leave it out."
            )


def targets_of(names: Iterable[str], split: str, keys: Keys) -> tuple[str, ...]:
    """Return the names of the targets among the names of a table or a mapping.

    Args:
        names: The names there.
        split: train, val or test, for messages.
        keys: What the targets are called, if that was said.

    Raises:
        ConfigError: There is none of that name, or of any usual one.
    """
    known = list(names)
    listed = ", ".join(known[:12])
    asked = (keys.target,) if isinstance(keys.target, str) else keys.target
    for name in filter(None, asked):
        if name not in known:
            raise ConfigError(
                f"task: {split} has no {name!r}.{nearest(name, known)} It has {listed}."
            )
    found = asked if any(asked) else [name for name in TARGETS if name in known][:1]
    if not found:
        raise ConfigError(
            f"task: {split} has {listed}, and none of them is called {', '.join(TARGETS)}; name "
            "what is to be learned by Task(target=...)."
        )
    return tuple(found)
