"""Metrics: functions ``(snapshot) -> {key: number}`` evaluated on a running block of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from decentral.exchange import Exchange
from decentral.layout import Layout
from decentral.tasks import Samples, Task

#: (rows [n, P], integers, inputs [B, ...]) -> outputs [n, B, ...]
Forward = Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]

#: Numbers held at once by the outputs and inner activations of one evaluation chunk, roughly.
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy of several models, float64 [n]; accuracy is None where a task has none."""

    loss: Tensor
    accuracy: Tensor | None


def score(
    task: Task, forward: Forward, rows: Tensor, integers: dict[str, Tensor], samples: Samples
) -> Scores:
    """Evaluate every row on the same samples, in chunks."""
    losses = rows.new_zeros(rows.shape[0], dtype=torch.float64)
    right = torch.zeros_like(losses)
    size = max(16, _CHUNK // max(1, rows.shape[0]))
    parts = zip(samples.inputs.split(size), samples.targets.split(size), strict=True)
    if not len(rows):  # a worker whose nodes are all in quarantine
        return Scores(losses, None if task.accuracy is None else right)
    with torch.no_grad():
        for inputs, targets in parts:
            outputs = forward(rows, integers, inputs)
            for index, output in enumerate(outputs):
                losses[index] += task.loss(output, targets).double() * len(inputs)
                if task.accuracy is not None:
                    right[index] += task.accuracy(output, targets).sum()
    total = len(samples)
    return Scores(losses / total, None if task.accuracy is None else right / total)


@dataclass
class Snapshot:
    """What a metric may look at: a block of rows in the middle of a run, read-only.

    ``alive`` lists the global ids of healthy nodes; ``evaluated`` the hosted rows whose local
    scores are taken (a sample of the nodes between the first and the last evaluation).
    """

    exchange: Exchange
    layout: Layout
    task: Task
    forward: Forward
    rows: Tensor  # [n, P]
    grads: Tensor  # [n, P]
    integers: dict[str, Tensor]
    weights: Tensor  # merge weights of the hosted rows, float64 [n]
    samples: Samples  # what is evaluated on
    calibrate: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
    evaluated: Tensor  # hosted row indices, int64
    alive: Tensor  # hosted row indices of healthy nodes, int64
    extra: dict[str, float] = field(default_factory=dict[str, float])

    @cached_property
    def local(self) -> Scores:
        """Scores of the local models that are evaluated, over all workers, in node order."""
        chosen = self.evaluated
        integers = {k: v[chosen] for k, v in self.integers.items()}
        scores = score(self.task, self.forward, self.rows[chosen], integers, self.samples)
        accuracy = None if scores.accuracy is None else self.exchange.gather(scores.accuracy)
        return Scores(self.exchange.gather(scores.loss), accuracy)

    @cached_property
    def merged_row(self) -> Tensor:
        """The counterfactual merge of all models, [P]."""
        row, _ = self.exchange.mean(self.rows, self.weights)
        return row

    @cached_property
    def merged(self) -> Scores:
        """Scores of the counterfactual merge, its BatchNorm statistics re-estimated."""
        row, integers = self.calibrate(self.merged_row)
        return score(self.task, self.forward, row.unsqueeze(0), integers, self.samples)

    def per_node(self, values: Tensor) -> Tensor:
        """Gather one number per healthy hosted node from all workers, float64, in node order."""
        return self.exchange.gather(values[self.alive].double())
