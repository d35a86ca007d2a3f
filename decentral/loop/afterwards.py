"""The models of a run, looked at in one place after they were trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from decentral.errors import ConfigError
from decentral.exchange.local import LocalExchange
from decentral.layout import shadow
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.setup import Setup
from decentral.merge.base import Models
from decentral.merge.calibrate import merge_integers
from decentral.metrics.base import Scores, score
from decentral.network.membership import Membership
from decentral.run.checkpoint import Saved
from decentral.tasks.base import Samples

#: A row [P] and its integer buffers [1, ...].
Model = tuple[Tensor, dict[str, Tensor]]

#: Samples of its own node from which a model's Fisher information is taken.
FISHER_SAMPLES = 64


class Afterwards:
    """All rows of a checkpoint, with the data that they were trained and are judged on."""

    def __init__(self, setup: Setup, saved: Saved) -> None:
        """Load a checkpoint."""
        self.setup, self.step = setup, saved.step
        members = Membership(saved.live, saved.counters["epoch"])
        exchange = LocalExchange(len(members.live))
        self.block = Block(setup, exchange, lambda *_: None, members)
        self.block.restore(saved.load(saved.live))
        self.evaluator = Evaluator(self.block)
        fit = self.block.healthy_rows()
        self.rows, self.live = self.block.rows[fit], [self.block.hosted[i] for i in fit]
        self.own = {name: value[fit] for name, value in self.block.integers.items()}
        #: Integer and bool buffers of whatever is made of all models, [1, ...].
        self.integers = merge_integers(self.own, torch.arange(len(fit)), exchange.gather)
        train = setup.train
        some = train.subset(torch.arange(min(len(train), setup.config.eval_samples)))
        self.judging = self.evaluator.val or some

    def models(self) -> Models:
        """Return what merge rules may know."""
        setup = self.setup
        return Models(
            rows=self.rows,
            samples=setup.samples_held[self.live],
            start=setup.initial_row(0).to(self.rows),
            model=setup.model,
            layout=setup.layout,
            seed=setup.config.seed,
            loss=self.loss,
            fisher=self.fisher,
        )

    def test(self, row: Tensor) -> Scores:
        """Return loss and accuracy of one row on test data, BatchNorm re-estimated."""
        return self.scores([row], self.evaluator.test)

    def loss(self, row: Tensor) -> float:
        """Return the loss of one row on validation data; without any, on training data."""
        return self.scores([row], self.judging).loss.item()

    def local(self, samples: Samples) -> Scores:
        """Return loss and accuracy of the models that were trained, with buffers of their own."""
        own = ({k: v[i : i + 1] for k, v in self.own.items()} for i in range(len(self.rows)))
        return self._scores(zip(self.rows, own, strict=True), samples)

    def scores(self, rows: Iterable[Tensor], samples: Samples) -> Scores:
        """Return loss and accuracy of rows that were made of the models."""
        return self._scores(((row, self.integers) for row in rows), samples)

    def _scores(self, models: Iterable[Model], samples: Samples) -> Scores:
        """Judge models, BatchNorm re-estimated, as many at a time as fit."""
        parts: list[Scores] = []
        waiting = iter(models)
        while some := list(islice(waiting, self.evaluator.chunk[0])):
            parts.append(self._together(some, samples))
        right = [part.accuracy for part in parts if part.accuracy is not None]
        return Scores(torch.cat([part.loss for part in parts]), torch.cat(right) if right else None)

    def _together(self, some: Sequence[Model], samples: Samples) -> Scores:
        evaluator, setup = self.evaluator, self.setup
        rows = torch.stack([evaluator.calibrated(*model) for model in some])
        integers = {
            name: torch.cat([whole[name] for _, whole in some]) for name in setup.layout.integers
        }
        return score(setup.task, evaluator.forward, rows, integers, samples, evaluator.chunk)

    def fisher(self, index: int) -> Tensor:
        """Return the mean squared gradient of a model on single samples of its own node, [P].

        Buffers, which have no gradient, count like the mean of the parameters.
        """
        setup, place = self.setup, self.block.hosted.index(self.live[index])
        batch = self.block.sampler.batch(0, FISHER_SAMPLES)
        inputs, targets = batch.inputs[place].unsqueeze(1), batch.targets[place].unsqueeze(1)
        rows = self.rows[index].expand(FISHER_SAMPLES, -1).clone().requires_grad_()
        forward = self.evaluator.forward_of(shadow(setup.model).eval(), setup.layout, own=True)
        whole = {k: v[place].expand(FISHER_SAMPLES, *v[place].shape)
                 for k, v in self.block.integers.items()}  # fmt: skip
        outputs = forward(rows, whole, inputs)
        losses = [setup.task.loss(o, t) for o, t in zip(outputs, targets, strict=True)]
        (gradients,) = torch.autograd.grad(torch.stack(losses).sum(), rows)
        squared = gradients.square().mean(0)
        columns = setup.layout.trainable
        squared[columns:] = squared[:columns].mean()
        return squared


def differing(setup: Setup, saved: Iterable[Saved]) -> Afterwards:
    """Return the newest checkpoint whose models are not all the same, as they are after a merge."""
    for each in saved:
        found = Afterwards(setup, each)
        if len(found.rows) < 2 or not bool((found.rows == found.rows[0]).all()):
            return found
    raise ConfigError(
        "in every checkpoint all models are the same; launch with "
        "communication.final_merge=false, or a larger keep_checkpoints."
    )
