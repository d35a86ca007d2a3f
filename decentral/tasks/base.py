"""Tasks: data, model, loss and evaluation.

A task plug-in is a function that takes, by name, any of ``nodes`` and ``seed`` from the run and
returns a ``Task``; its keyword-only parameters are settings. The trait ``defaults`` holds settings
of the run that suit the task, below everything the user says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.tasks.samples import Samples as Samples
from decentral.tasks.samples import View as View

#: A share of the training samples that is kept from training.
HeldOut = Annotated[float, Ge(0), Lt(1)]


Pair = Samples | tuple[Tensor, Tensor]


@dataclass
class Task:
    """What is learned: a model, a loss that averages over a batch, and train, val and test samples.

    ``train``, ``val`` and ``test`` are pairs of tensors (inputs, targets); without ``test`` the
    last fifth of ``train`` is held out. ``model`` is a function that builds the module (None: the
    run's ``model:`` setting, from ``outputs``). ``accuracy`` maps (outputs, targets) to one number
    per sample; it is arg-max agreement for integer targets and absent for others. ``labels`` [m]
    are what splits divide by, named by ``classes``: the targets where these are classes, else what
    is given (the document of a sequence). ``scores`` are further functions like ``accuracy``, by
    name, for the metric ``scores``. ``owners`` [m] assigns every training sample to a node,
    for tasks that bring their own split. ``outputs`` is how many a model needs: the classes, or
    the size of a target, unless given. ``takes`` is what a model's trait ``inputs`` must say:
    ``numbers`` for floating inputs and ``tokens`` for integers, unless given. ``notes`` are lines
    that a user should read before the run. ``objective`` is the mean loss of the test samples in
    closed form, where there is one: from the parameters by name, [n, ...], of n models, their n
    losses; it is for tasks without an accuracy.

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
    scores: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict[str, Any])
    labels: Tensor | None = None
    owners: Tensor | None = None
    outputs: int = 0
    takes: str = ""
    best_loss: float | None = None
    objective: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the shapes and fill in what follows from the targets."""
        train = _samples(self.train, "train")
        if self.test is None:
            cut = len(train) - max(1, len(train) // 5)
            places = torch.arange(len(train))
            train, self.test = train.subset(places[:cut]), train.subset(places[cut:])
        self.train, self.test = train, _samples(self.test, "test")
        self.val = None if self.val is None else _samples(self.val, "val")
        integers = not train.targets.is_floating_point()
        if integers:
            self.accuracy = self.accuracy or _agreement
        if self.accuracy and self.objective:
            raise ConfigError(
                "task: an objective in closed form says nothing of accuracy; leave one of them out."
            )
        if integers and train.targets.dim() == 1 and self.labels is None:
            self.labels = train.targets.long()
        if self.labels is not None:
            self._name_classes(self.labels[: len(train)])
        sized = len(self.classes or ()) if train.targets.dim() == 1 else 0
        self.outputs = self.outputs or sized or int(train.targets[0].numel())

    def _name_classes(self, labels: Tensor) -> None:
        self.labels = labels
        if self.classes is None:
            self.classes = tuple(str(c) for c in range(int(labels.max()) + 1))

    @property
    def splits(self) -> tuple[Samples, Samples | None, Samples]:
        """The train, val and test samples."""
        assert isinstance(self.train, Samples)
        assert isinstance(self.test, Samples)
        assert self.val is None or isinstance(self.val, Samples)
        return self.train, self.val, self.test

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input as a model sees it."""
        return tuple(self.splits[0].first.shape[1:])


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
    """Return 1 where the largest output is the target's class, the mean over a sequence, [B]."""
    right = (outputs.argmax(-1) == targets).to(torch.float64)
    return right.flatten(1).mean(1) if right.dim() > 1 else right


def holdout(samples: Samples, share: float) -> tuple[Samples, Samples | None]:
    """Split off the last ``share`` of the samples; None when the share is 0."""
    kept = len(samples) - round(share * len(samples))
    if kept == len(samples):
        return samples, None
    inputs, targets = samples.inputs, samples.targets
    return (
        replace(samples, inputs=inputs[:kept], targets=targets[:kept]),
        replace(samples, inputs=inputs[kept:], targets=targets[kept:]),
    )


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values with mean 0 and variance 1."""
    return (values - values.mean()) / values.std()
