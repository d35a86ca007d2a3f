"""Evaluating a block: snapshots for the metrics, how often, and on how much."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.gradients.autograd import make_looped_forward, make_stacked_forward
from decentral.layout import share_parameters
from decentral.loop.block import Block
from decentral.loop.setup import Setup
from decentral.merging.calibrate import recalibrate
from decentral.metrics.base import Snapshot, check_values, chunk_of
from decentral.network.planning import all_reduce_messages
from decentral.plugins import ConfiguredPlugin, label_of
from decentral.private import count_changes
from decentral.registry import build
from decentral.tasks.base import Samples

#: Forward samples of the evaluations in between stay below this share of training's.
EVALUATION_SHARE = 0.05
#: Most evaluations of one run.
EVALUATIONS = 60
#: A curve of fewer points hides what happened: short runs are given as many, on fewer
#: samples, and for up to this share of training's.
POINTS, SHORT_SHARE = 20, 0.20
#: Fewest samples of an evaluation, where there are as many: of fewer, a curve is noise.
FEWEST = 16


@dataclass(frozen=True)
class EvaluationPlan:
    """How often a run is evaluated in between, and on how much.

    Attributes:
        every: Steps between two evaluations.
        samples: Most test samples of each.
        nodes: Nodes of each, beside the average of all.
        share: Their forward samples, as a share of the samples of training.
    """

    every: int
    samples: int
    nodes: int
    share: float


def plan_evaluations(setup: Setup) -> EvaluationPlan:
    """Return how often, and on how much: as asked, or so that it stays cheap (counted).

    ``auto`` is a multiple of ``local_steps``, so that every evaluation sees the
    same phase of a round.
    """
    config, test = setup.config, len(setup.task.splits[2])
    samples, nodes = config.eval_samples, min(config.eval_nodes, config.nodes)
    # One more for the merged model; a training step is ``nodes`` times the mean batch.
    trained, models = config.nodes * setup.timeline.mean, nodes + 1
    if config.eval_every != "auto":
        every = config.eval_every
    else:
        every, some = _cheap_interval(config, min(samples, test), models / trained)
        samples = some if some < test else samples
    between = (config.steps - 1) // every
    share = between * models * min(samples, test) / (config.steps * trained)
    return EvaluationPlan(every, samples, nodes, share)


def _cheap_interval(config: Config, samples: int, cost: float) -> tuple[int, int]:
    """Return steps between evaluations, and samples of each.

    Args:
        config: The run.
        samples: Most samples.
        cost: Training steps that have as many samples as all models evaluated on one.
    """

    def rounds(steps: float) -> int:
        whole = ceil(steps / config.local_steps) * config.local_steps
        return min(whole, config.steps)

    every = rounds(
        max(ceil(samples * cost / EVALUATION_SHARE), ceil(config.steps / EVALUATIONS))
    )
    dense = max(config.steps // POINTS // config.local_steps, 1) * config.local_steps
    if every <= dense:
        return every, samples
    some = min(samples, int(SHORT_SHARE * dense / cost))
    if some >= min(samples, FEWEST):
        return min(dense, config.steps), some
    some = min(samples, FEWEST)
    return rounds(ceil(some * cost / SHORT_SHARE)), some


class Evaluator:
    """Takes snapshots of a block and asks every metric."""

    def __init__(self, block: Block) -> None:
        """Prepare test data, the fixed subset and the forward pass."""
        setup = block.setup
        self.block, self.setup = block, setup
        self.metrics = [build("metric", name) for name in setup.config.metrics]
        # A copy, so that ``eval`` does not reach the module that trains.
        model = share_parameters(setup.model).eval()
        vmap = block.pipeline.compute.kind == "vmap"
        #: Makes a forward pass of rows, together or one by one, as gradients are
        #: computed.
        self.forward_of = make_stacked_forward if vmap else make_looped_forward
        self.forward = self.forward_of(model, setup.layout)
        self.chunk = chunk_of(setup.activation_memory)
        _, val, test = setup.task.splits
        self.test = test.to(setup.device, setup.dtype)
        self.val = None if val is None else val.to(setup.device, setup.dtype)
        some = plan_evaluations(setup).samples
        self.subset = self.test.subset(self._choose(len(test), some, "test"))
        self.calibration = self._calibration_inputs()

    def _choose(self, size: int, wanted: int, purpose: str) -> Tensor:
        if size <= wanted:
            return torch.arange(size)
        order = rng.permute(
            np.arange(wanted), size, self.setup.config.seed, f"evaluate/{purpose}"
        )
        return torch.from_numpy(np.sort(order))

    def _calibration_inputs(self) -> Tensor:
        train = self.setup.train
        chosen = self._choose(len(train), self.setup.config.calibration_samples, "train")
        return train.take(chosen)[0]

    def __call__(self, complete: bool) -> dict[str, float]:
        """Return every metric now; ``complete`` looks at all nodes and all test
        samples.
        """
        with self.block.optimizer.evaluating():
            return self._ask_metrics(complete)

    def _ask_metrics(self, complete: bool) -> dict[str, float]:
        snapshot = self.snapshot(complete)
        self._book()
        found: dict[str, float] = {}
        for metric in self.metrics:
            found |= check_values(metric, self._ask(metric, snapshot), found)
        if self.val is not None:
            found |= self._validation(snapshot, self.val)
        return found

    def _ask(self, metric: ConfiguredPlugin, snapshot: Snapshot) -> object:
        """Return what a metric says. One that changes the rows it looks at, which are
        those that are trained, is refused.
        """
        before = count_changes(snapshot.rows)
        found = metric(snapshot)
        if count_changes(snapshot.rows) != before:
            raise ConfigError(
                f"{label_of(metric)} changed the models it was to measure; work on a copy, "
                "snapshot.rows.clone()."
            )
        return found

    def _book(self) -> None:
        """Count the counterfactual merge: one global average of all rows."""
        nodes = self.block.exchange.nodes
        self.block.stats.measure_bytes += (
            all_reduce_messages(nodes, steps=1) * self.setup.model_bytes
        )

    def snapshot(self, complete: bool) -> Snapshot:
        """Return what metrics look at."""
        block = self.block
        healthy = block.good()
        limit = len(healthy) if complete else self.setup.config.eval_nodes
        # Evenly spread over the ids, both ends included: the first few would favour
        # one end of a split that deals out classes in order.
        spread = np.unique(
            np.linspace(0, len(healthy) - 1, min(limit, len(healthy))).round()
        )
        chosen, healthy = {healthy[int(place)] for place in spread}, {*healthy}
        return Snapshot(
            exchange=block.exchange,
            layout=self.setup.layout,
            task=self.setup.task,
            forward=self.forward,
            rows=block.rows,
            grads=block.grads,
            integers=block.integers,
            # Bad and resting nodes count in no merged model.
            weights=block.merge_shares(without={*block.members.live} - healthy),
            samples=self.test if complete else self.subset,
            calibrate=self.calibrate_row,
            chunk=self.chunk,
            evaluated=_indices(
                i for i, node in enumerate(block.hosted) if node in chosen
            ),
            ids=tuple(block.hosted),
            alive=_indices(i for i in block.healthy_rows() if block.hosted[i] in healthy),
        )

    def calibrate_row(self, row: Tensor, integers: dict[str, Tensor]) -> Tensor:
        """Return a row with BatchNorm statistics re-estimated; integer buffers [1,
        ...].
        """
        return recalibrate(
            self.setup.model, self.setup.layout, row, integers, self.calibration
        )

    def _validation(self, snapshot: Snapshot, samples: Samples) -> dict[str, float]:
        scores = snapshot.score_merged(self.setup.task, samples)
        found = {"val/loss_merged": scores.loss.item()}
        if scores.accuracy is not None:
            found["val/accuracy_merged"] = scores.accuracy.item()
        return found

    def merged_state(self) -> dict[str, Tensor]:
        """Return the merged model as a state dict on the CPU."""
        with self.block.optimizer.evaluating():
            return self.state(*self.snapshot(complete=True).calibrated)

    def state(self, row: Tensor, integers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a row [P] and its integer buffers as a state dict on the CPU."""
        model: Any = copy.deepcopy(self.setup.model)
        self.setup.layout.unpack(row, model, integers)
        # A frozen base lies in its folder, and is read from there again.
        adapted = getattr(model, "adapted", False)
        frozen = {
            p.data_ptr() for p in model.parameters() if adapted and not p.requires_grad
        }
        found = [
            (k, v) for k, v in model.state_dict().items() if v.data_ptr() not in frozen
        ]
        return {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in found
            if isinstance(v, Tensor)
        }


def _indices(places: Iterable[int]) -> Tensor:
    return torch.tensor(list(places), dtype=torch.int64)
