"""The samples of a split, as stored and as a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: What a model sees of stored inputs [..., *stored]: (inputs, keys [...] or None) -> floats
#: [..., *seen]. Keys are given in training, one per sample visit; a view may draw from them.
View = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Samples:
    """Inputs [m, ...] and targets [m, ...] of one split as stored, in memory or mapped from a file.

    What is taken from them is what a model sees: through ``view`` where there is one, integers as
    int64.
    """

    inputs: Tensor
    targets: Tensor
    view: View | None = None
    dtype: torch.dtype | None = None  # of what a view returns; None: as it does
    mapped: bool = False  # whether inputs are read from a file as they are needed

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """Return the samples on a device, floating inputs and targets in the run's precision."""
        inputs, targets = (_cast(part, device, dtype) for part in (self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets, dtype=dtype)

    @property
    def first(self) -> Tensor:
        """The first input as a model sees it, [1, ...]."""
        return self.take(torch.zeros(1, dtype=torch.int64))[0]

    def subset(self, index: Tensor) -> Samples:
        """Return the samples at ``index`` [k]."""
        return replace(self, inputs=self.inputs[index], targets=self.targets[index])

    def take(self, index: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets at ``index`` [...]; ``keys`` [...] say that it is training."""
        flat = index.flatten().to(self.inputs.device)
        inputs = self.inputs.index_select(0, flat).unflatten(0, index.shape)
        targets = self.targets.index_select(0, flat).unflatten(0, index.shape)
        # Integers are int64 to a loss, whatever they are stored in.
        targets = targets if targets.is_floating_point() else targets.long()
        return self._seen(inputs, keys), targets

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all inputs and targets in order, ``size`` samples at a time."""
        for inputs, targets in zip(self.inputs.split(size), self.targets.split(size), strict=True):
            yield self._seen(inputs, None), _whole(targets)

    def _seen(self, inputs: Tensor, keys: Tensor | None) -> Tensor:
        if self.view is None:
            return _whole(inputs)
        seen = self.view(inputs, keys)
        return seen if self.dtype is None else seen.to(self.dtype)


def _whole(tensor: Tensor) -> Tensor:
    """Return integers as int64, whatever they are stored in."""
    return tensor if tensor.is_floating_point() else tensor.long()


def _cast(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
