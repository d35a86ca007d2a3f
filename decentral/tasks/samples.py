"""The samples of a split, as stored and as a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from decentral.pytree import Tree, first_leaf, tree_map

#: What a model sees of stored inputs [..., *stored]: (inputs, keys [...] or None) -> floats
#: [..., *seen]. Keys are given in training, one per sample visit; a view may draw from them.
View = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Samples:
    """Inputs [m, ...] and targets [m, ...] of one split as stored, in memory or mapped from a file.

    Several inputs, or targets of several kinds, are tuples of tensors, or tensors by name. What is
    taken from them is what a model sees: through ``view`` where there is one, integers as int64.
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
        """Return the samples on a device, floating inputs and targets in the run's precision."""

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
        """Return the samples from ``start`` to before ``stop``; they stay where they are."""
        inputs, targets = (tree_map(lambda t: t[start:stop], part) for part in self._parts)
        return replace(self, inputs=inputs, targets=targets)

    def take(self, index: Tensor, keys: Tensor | None = None) -> tuple[Tree, Tree]:
        """Return inputs and targets at ``index`` [...]; ``keys`` [...] say that it is training."""
        flat = index.flatten().to(self.device)

        def at(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, flat).unflatten(0, index.shape)

        # Integers are int64 to a loss, whatever they are stored in.
        if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
            # What nearly every step takes: nothing to walk through.
            return self._seen(at(self.inputs), keys), _whole(at(self.targets))
        inputs, targets = tree_map(at, self.inputs), tree_map(at, self.targets)
        return self._seen(inputs, keys), tree_map(_whole, targets)

    def chunks(self, size: int) -> Iterator[tuple[Tree, Tree]]:
        """Yield all inputs and targets in order, at most ``size`` samples at a time.

        No chunk holds one sample where there are more: layers that normalise over the batch, which
        may do so in evaluation, too, refuse it.
        """
        stops = list(range(size, len(self), size))
        # The last chunk takes one sample of the one before.
        if stops and len(self) - stops[-1] == 1 and size > 2:
            stops[-1] -= 1
        begin = 0
        for stop in (*stops, len(self)):
            some = slice(begin, stop)
            inputs, targets = (tree_map(lambda t, s=some: t[s], part) for part in self._parts)
            yield self._seen(inputs, None), tree_map(_whole, targets)
            begin = stop

    @property
    def _parts(self) -> tuple[Tree, Tree]:
        return self.inputs, self.targets

    def _seen(self, inputs: Tree, keys: Tensor | None) -> Tree:
        if self.view is None:
            return _whole(inputs) if isinstance(inputs, Tensor) else tree_map(_whole, inputs)
        seen = self.view(inputs, keys)
        return seen if self.dtype is None else seen.to(self.dtype)


def _whole(tensor: Tensor) -> Tensor:
    """Return integers as int64, whatever they are stored in."""
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.long()
