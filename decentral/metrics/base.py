"""Metrics: functions ``(snapshot) -> {key: number}`` evaluated on a running block
of rows.

Trait ``records``: what is known of each key (``decentral.records.Record``); keys
without one have the defaults that their names suggest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from decentral.blame import library
from decentral.exchange.base import Exchange
from decentral.layout import Layout
from decentral.merging.calibrate import merge_integers
from decentral.plugins import describe, find_members, wrong
from decentral.pytree import Tree, first_leaf, tree_at, tree_map
from decentral.records import VALIDATION, Record, is_own, scores
from decentral.registry import KINDS, ConfiguredPlugin, build
from decentral.tasks.base import Samples, Task
from decentral.traits import MetricTraits, traits_of

#: (rows [n, P], integers, inputs [B, ...]) -> outputs [n, B, ...]
Forward = Callable[[Tensor, dict[str, Tensor], Tree], Tree]

#: Most rows, and samples of each, in one chunk of an evaluation, and most numbers
#: it may make.
_ROWS, _SAMPLES, _NUMBERS = 32, 512, 1 << 26


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy of several models, float64 [n]; accuracy is None where a
    task has none.
    """

    loss: Tensor
    accuracy: Tensor | None


def chunk_of(kept: int) -> tuple[int, int]:
    """Return how many rows, and samples of each, to evaluate together.

    ``kept`` is what a model keeps of one sample for a backward pass: more than a
    forward pass has in memory at any moment.
    """
    samples = max(1, min(_SAMPLES, _NUMBERS // max(1, kept)))
    return max(1, min(_ROWS, _NUMBERS // (samples * max(1, kept)))), samples


def score(
    task: Task,
    forward: Forward,
    rows: Tensor,
    integers: dict[str, Tensor],
    samples: Samples,
    chunk: tuple[int, int] | None = None,
) -> Scores:
    """Evaluate every row on the same samples, (rows, samples) of a ``chunk`` at a
    time.

    Args:
        task: The task that judges.
        forward: Runs rows [n, P] on the same inputs.
        rows: The models, [n, P].
        integers: Integer buffers by name, [n, ...].
        samples: The samples.
        chunk: Rows and samples at a time.
    """
    height, width = chunk or (_ROWS, _SAMPLES)
    losses = rows.new_zeros(rows.shape[0], dtype=torch.float64)
    right = torch.zeros_like(losses)
    ignores, total = task.ignores(samples.targets), 0.0
    for inputs, targets in samples.chunks(width):
        # A mean is over the targets that count, of a chunk and of all chunks alike.
        counts = task.count_targets(targets) if ignores else None
        size = len(first_leaf(inputs)) if counts is None else counts.sum().item()
        total += size
        for start in range(0, rows.shape[0], height):
            some = slice(start, start + height)
            whole = {key: value[some] for key, value in integers.items()}
            with torch.no_grad():
                outputs = forward(rows[some], whole, inputs)
                # Means times sizes, since the last chunk may be shorter.
                losses[some] += judge_models(task.loss, outputs, targets).double() * size
                if task.accuracy is not None:
                    found = judge_models(task.accuracy, outputs, targets).double()
                    right[some] += (found if counts is None else found * counts).sum(1)
    return Scores(losses / total, None if task.accuracy is None else right / total)


def judge_models(
    judge: Callable[[Any, Any], Tensor], outputs: Tree, targets: Tree
) -> Tensor:
    """Return what ``judge`` says of every model's outputs [n, B, ...], [n, ...]."""
    # One after the other: by vmap all together take as long (cross entropy and
    # accuracy of 32 models on 512 samples), and its first call on a loss several
    # tenths of a second, for which torch imports its symbolic mathematics.
    models = range(len(first_leaf(outputs)))
    found = [judge(tree_at(outputs, index), targets) for index in models]
    return torch.stack([torch.as_tensor(one) for one in found])


@dataclass
class Snapshot:
    """What a metric may look at: a block of rows in the middle of a run, read-only.

    ``alive`` lists the global ids of healthy nodes; ``evaluated`` the hosted rows
    whose local scores are taken (a sample of the nodes between the first and the
    last evaluation).
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
    calibrate: Callable[[Tensor, dict[str, Tensor]], Tensor]
    evaluated: Tensor  # hosted row indices, int64
    alive: Tensor  # hosted row indices of healthy nodes, int64
    chunk: tuple[int, int] | None = None
    extra: dict[str, float] = field(default_factory=dict[str, float])
    ids: tuple[int, ...] = ()  # of the nodes of the hosted rows; else their positions

    @property
    def chosen(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The local models that are evaluated, [e, P], and their integer buffers."""
        here = self.evaluated
        return self.rows[here], {k: v[here] for k, v in self.integers.items()}

    @cached_property
    def local(self) -> Scores:
        """Scores of the local models that are evaluated, over all workers, in node
        order.
        """
        scores = self._scores(*self.chosen)
        accuracy = (
            None if scores.accuracy is None else self.exchange.gather(scores.accuracy)
        )
        return Scores(self.exchange.gather(scores.loss), accuracy)

    @cached_property
    def merged_row(self) -> Tensor:
        """The counterfactual merge of all models, [P]."""
        row, _ = self.exchange.mean(self.rows, self.weights)
        return row

    @cached_property
    def merged_integers(self) -> dict[str, Tensor]:
        """The integer and bool buffers of the merge, [1, ...]."""
        return merge_integers(self.integers, self.alive, self.exchange.gather)

    @cached_property
    def calibrated(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The merge with BatchNorm statistics re-estimated, [P], and its integer
        buffers.
        """
        return self.calibrate(self.merged_row, self.merged_integers), self.merged_integers

    @cached_property
    def merged(self) -> Scores:
        """Scores of the counterfactual merge, its BatchNorm statistics
        re-estimated.
        """
        row, integers = self.calibrated
        return self._scores(row.unsqueeze(0), integers)

    def _scores(self, rows: Tensor, integers: dict[str, Tensor]) -> Scores:
        """Evaluate rows on the samples, or by what these come to in closed form."""
        if self.task.objective is not None:
            return Scores(self.task.objective(self.layout.views(rows)).double(), None)
        return score(self.task, self.forward, rows, integers, self.samples, self.chunk)

    def score_merged(self, task: Task, samples: Samples) -> Scores:
        """Evaluate the counterfactual merge as ``task`` judges it, on any samples."""
        row, integers = self.calibrated
        return score(task, self.forward, row.unsqueeze(0), integers, samples, self.chunk)

    def with_merge(self, row: Tensor) -> Snapshot:
        """Return what metrics see if all models are merged into ``row`` [P].

        The scores of the local models, which stay as they are, are taken once.
        """
        other = replace(self)
        other.local, other.merged_row = self.local, row
        return other

    def per_node(self, values: Tensor) -> Tensor:
        """Gather one number per healthy hosted node from all workers, float64, in
        node order.
        """
        return self.exchange.gather(values[self.alive].double())


def by_role(group: str, local: Tensor, merged: Tensor) -> dict[str, float]:
    """Return one quantity of the local models and of their merge by its keys."""
    found = {f"local_{name}": getattr(local, name)() for name in ("mean", "min", "max")}
    return {
        f"{group}/{role}": x.item() for role, x in (found | {"merged": merged}).items()
    }


def declared_records(metrics: Iterable[str | ConfiguredPlugin]) -> tuple[Record, ...]:
    """Return the records that metrics declare, in the order of the metrics."""
    found = [traits_of(build("metric", metric), MetricTraits) for metric in metrics]
    return tuple(one for traits in found for one in traits.records)


def built_in_records() -> tuple[Record, ...]:
    """Return the records of all metrics that come with decentral, for runs that
    hold none.
    """
    return declared_records(find_members(KINDS["metric"], "metric"))


def check_values(
    metric: ConfiguredPlugin, returned: object, known: Mapping[str, Any]
) -> dict[str, float]:
    """Return what a metric returned as keys and numbers.

    A number that overflowed is kept as NaN: it is no measurement, and no mistake
    either.

    Args:
        metric: The metric.
        returned: Whatever it returned.
        known: What other metrics have returned at this step.

    Raises:
        ConfigError: It is no mapping of text to single numbers, or a key is taken.
    """
    if not isinstance(returned, Mapping):
        example = f'{{"{metric.name}/mean": 0.5}}'
        raise wrong(metric, describe(returned), f"keys and numbers, such as {example}")
    found: dict[str, float] = {}
    for key, value in cast("Mapping[object, object]", returned).items():
        if not isinstance(key, str) or not key.strip("/ "):
            raise wrong(metric, f"the key {key!r}", "keys that are text")
        own = is_own(key) or key in _VALIDATION
        if own or key in known:
            by = "the run itself" if own else "another metric"
            raise wrong(metric, f"{key!r}, a key of {by}", "it by another name")
        found[key] = _number(metric, key, value)
    return found


_VALIDATION = {record.key for record in VALIDATION}


# --- metrics of other libraries ---------------------------------------------------


def from_object(value: Any) -> Callable[[Snapshot], dict[str, Any]] | None:
    """Return an object that counts over batches, such as one of torchmetrics, as a
    metric; None for any other.

    Of every model it sees all test samples: ``reset()``, ``update(outputs,
    targets)`` for each chunk, ``compute()``, which returns a number, or numbers by
    name. They become ``NAME/local_mean``, ``/local_min``, ``/local_max`` and
    ``/merged``, as accuracy does. Outputs and targets are on the CPU.
    """
    methods = [getattr(value, name, None) for name in ("reset", "update", "compute")]
    if isinstance(value, type) or not all(map(callable, methods)):
        return None
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(value).__name__).lower()

    def measure(snapshot: Snapshot) -> dict[str, Any]:
        return _count_over_models(value, name, snapshot)

    measure.__name__ = measure.__qualname__ = name
    measure.__module__ = type(value).__module__  # whose it is
    rises = getattr(value, "higher_is_better", None)
    better = "none" if rises is None else "higher" if rises else "lower"
    found = scores(name, f"test {name.replace('_', ' ')}", better=better)
    vars(measure)["records"] = found
    return measure


def assume_traits(function: Any) -> dict[str, Any]:
    """Return the records of what was made of an object."""
    found = getattr(function, "records", None)
    return {} if found is None else {"records": found}


def _count_over_models(counter: Any, name: str, snapshot: Snapshot) -> dict[str, Any]:
    """Return what an object counts for the local models, and for their average.

    Args:
        counter: The object.
        name: What its only number is called.
        snapshot: The models.
    """
    row, integers = snapshot.calibrated
    merged = _count_over_samples(counter, name, snapshot, row, integers)
    rows, buffers = snapshot.chosen
    local: list[dict[str, Any]] = []
    for index, one in enumerate(rows):
        own = {key: value[index : index + 1] for key, value in buffers.items()}
        local.append(_count_over_samples(counter, name, snapshot, one, own))
    found: dict[str, Any] = {}
    for key, value in merged.items():
        one = torch.as_tensor(value, dtype=torch.float64)
        if one.dim():  # refused as it is
            return {f"{key}/merged": value}
        numbers = one.new_tensor([float(each[key]) for each in local])
        found |= by_role(key, snapshot.exchange.gather(numbers), one)
    return found


def _count_over_samples(
    counter: Any, name: str, snapshot: Snapshot, row: Tensor, integers: dict[str, Tensor]
) -> dict[str, Any]:
    """Return what an object counts for one model, by name.

    Args:
        counter: The object.
        name: What its only number is called.
        snapshot: Whose samples it sees.
        row: The model, [P].
        integers: Its integer buffers, [1, ...].
    """
    width = (snapshot.chunk or (_ROWS, _SAMPLES))[1]
    counter.reset()
    for inputs, targets in snapshot.samples.chunks(width):
        with torch.no_grad():
            outputs = tree_at(snapshot.forward(row.unsqueeze(0), integers, inputs), 0)
        with library("metric", name):
            counter.update(tree_map(Tensor.cpu, outputs), tree_map(Tensor.cpu, targets))
    with library("metric", name):
        found = counter.compute()
    return (
        {str(k): v for k, v in found.items()}
        if isinstance(found, Mapping)
        else {name: found}
    )


def _number(metric: ConfiguredPlugin, key: str, value: object) -> float:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.shape == ():
        value = value.item()
    if not isinstance(value, int | float):
        raise wrong(metric, f"{describe(value)} for {key!r}", "one number for a key")
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan
