"""Tasks: data, model, loss and evaluation.

A task plug-in is a function that takes, by name, any of ``nodes`` and ``seed`` from the run and
returns a ``Task``; its keyword-only parameters are settings. The trait ``defaults`` holds settings
of the run that suit the task, below everything the user says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError

__all__ = ["Samples", "Task", "holdout"]


@dataclass(frozen=True)
class Samples:
    """Inputs [m, ...] and targets [m, ...] of one split, in memory."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """Return the samples on a device, floating inputs and targets in the run's precision."""
        return Samples(_cast(self.inputs, device, dtype), _cast(self.targets, device, dtype))

    def subset(self, index: Tensor) -> Samples:
        """Return the samples at ``index`` [k]."""
        return Samples(self.inputs[index], self.targets[index])


def _cast(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


Pair = Samples | tuple[Tensor, Tensor]


@dataclass
class Task:
    """What is learned: a model, a loss that averages over a batch, and train, val and test samples.

    ``train``, ``val`` and ``test`` are pairs of tensors (inputs, targets); without ``test`` the
    last fifth of ``train`` is held out. ``model`` is a function that builds the module (None: the
    run's ``model:`` setting, from ``outputs``). ``accuracy`` maps (outputs, targets) to one number
    per sample; it is arg-max agreement for integer targets and absent for others. ``owners`` [m]
    assigns every training sample to a node, for tasks that bring their own split.

    >>> x, y = torch.randn(50, 4), torch.randint(0, 3, (50,))
    >>> task = Task(model=lambda: nn.Linear(4, 3), loss=nn.functional.cross_entropy, train=(x, y))
    >>> len(task.train), len(task.test), task.classes
    (40, 10, ('0', '1', '2'))
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    train: Pair
    test: Pair | None = None
    val: Pair | None = None
    model: Callable[[], nn.Module] | nn.Module | None = None
    classes: tuple[str, ...] | None = None
    accuracy: Callable[[Tensor, Tensor], Tensor] | None = None
    owners: Tensor | None = None
    best_loss: float | None = None

    def __post_init__(self) -> None:
        """Check the shapes and fill in what follows from the targets."""
        train = _samples(self.train, "train")
        if self.test is None:
            cut = len(train) - max(1, len(train) // 5)
            self.test = Samples(train.inputs[cut:], train.targets[cut:])
            train = Samples(train.inputs[:cut], train.targets[:cut])
        self.train, self.test = train, _samples(self.test, "test")
        self.val = None if self.val is None else _samples(self.val, "val")
        labels = train.targets
        if not labels.is_floating_point() and labels.dim() == 1:
            if self.classes is None:
                self.classes = tuple(str(c) for c in range(int(labels.max()) + 1))
            self.accuracy = self.accuracy or _agreement

    @property
    def splits(self) -> tuple[Samples, Samples | None, Samples]:
        """The train, val and test samples."""
        assert isinstance(self.train, Samples)
        assert isinstance(self.test, Samples)
        assert self.val is None or isinstance(self.val, Samples)
        return self.train, self.val, self.test

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.splits[0].inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """The number of outputs a model needs: classes, or the size of a target."""
        targets = self.splits[0].targets
        return len(self.classes) if self.classes else int(targets[0].numel())


def _samples(pair: Any, name: str) -> Samples:
    if isinstance(pair, Samples):
        return pair
    inputs, targets = (torch.as_tensor(part) for part in pair)
    if len(inputs) != len(targets) or not len(inputs):
        raise ConfigError(
            f"task: {name} has {len(inputs)} inputs and {len(targets)} targets; "
            "give as many of one as of the other, at least 1."
        )
    return Samples(inputs, targets)


def _agreement(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where the largest output is the target's class, [B]."""
    return (outputs.argmax(-1) == targets).to(torch.float64)


def holdout(samples: Samples, share: float) -> tuple[Samples, Samples | None]:
    """Split off the last ``share`` of the samples; None when the share is 0."""
    kept = len(samples) - round(share * len(samples))
    if kept == len(samples):
        return samples, None
    return (
        Samples(samples.inputs[:kept], samples.targets[:kept]),
        Samples(samples.inputs[kept:], samples.targets[kept:]),
    )
