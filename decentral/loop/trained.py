"""The models of a run after training, looked at in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from decentral import rng
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.layout import share_parameters
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
from decentral.loop.rounds import restore
from decentral.loop.setup import Setup
from decentral.merging.base import Models
from decentral.merging.calibrate import merge_integers
from decentral.metrics.base import Scores, Snapshot, check_values, declared_records, score
from decentral.metrics.curvature import draw_labels
from decentral.network.planning import Membership
from decentral.pytree import tree_at, tree_map
from decentral.records import Records, records_of
from decentral.registry import ConfiguredPlugin, build
from decentral.run.checkpoint import (
    Saved,
    has_checkpoint,
    newest_checkpoint,
    restoring,
)
from decentral.tasks.base import Samples
from decentral.tasks.samples import is_whole
from decentral.topology.labels import NodeId

#: A row [P] and its integer buffers [1, ...].
Model = tuple[Tensor, dict[str, Tensor]]

#: Fewest training samples that judge merges where there are none for validation.
JUDGED = 512
#: Tokens that a language model adds to a text, and how much less likely ones are chosen.
GENERATED, TEMPERATURE = 64, 0.8
#: Samples of its own node from which a model's Fisher information is taken.
FISHER_SAMPLES = 64


def refuse_other_base(setup: Setup, saved: Saved) -> None:
    """Raise ConfigError where the frozen part of a model, which no checkpoint holds, is
    another than at a checkpoint.
    """
    if "base" in saved.identity:
        rule = setup.parts.get("model")
        path = rule.settings.get("path") if rule else None
        if saved.identity["base"].get("sha256") != setup.layout.frozen_digest():
            raise ConfigError(
                f"model: the frozen weights{f' of {path}' if path else ''} are not those that the "
                "run has trained with, to which its checkpoints belong; restore them, or launch "
                "a new run."
            )


def prepare_again(config: Config, path: Path) -> Setup:
    """Prepare a run that lies in a folder, its frozen part as its checkpoints know it.

    Args:
        config: Its configuration.
        path: The folder.
    """
    setup = prepare(config)
    if has_checkpoint(path):
        refuse_other_base(setup, newest_checkpoint(path))
    return setup


class TrainedModels:
    """The rows of a checkpoint, with the data they were trained and are judged on."""

    def __init__(self, setup: Setup, saved: Saved) -> None:
        """Load a checkpoint."""
        self.setup, self.step = setup, saved.step
        refuse_other_base(setup, saved)
        exchange = LocalExchange(len(saved.live))
        with restoring(saved.step):
            members = Membership(saved.live, saved.counters["epoch"])
            self.block = Block(setup, exchange, lambda *_: None, members)
            restore(self.block, saved.load(saved.live))
        # Schedule-free ones train at other points than those that are looked at.
        self.block.optimizer.set_mode(training=False)
        self.evaluator = Evaluator(self.block)
        healthy = self.block.healthy_rows()
        self.rows, self.live = (
            self.block.rows[healthy],
            [self.block.hosted[i] for i in healthy],
        )
        self.own = {name: value[healthy] for name, value in self.block.integers.items()}
        #: Integer and bool buffers of whatever is made of all models, [1, ...].
        self.integers = merge_integers(
            self.own, torch.arange(len(healthy)), exchange.gather
        )
        train = setup.train
        judged = max(setup.config.eval_samples, JUDGED)
        some = train.subset(torch.arange(min(len(train), judged)))
        self.judging = self.evaluator.val or some

    @cached_property
    def snapshot(self) -> Snapshot:
        """What metrics look at: all models, on all test samples.

        BatchNorm of the local models, too, is re-estimated, as it is of what is
        made of them.
        """
        found = self.evaluator.snapshot(complete=True)
        if self.setup.task.objective is None:
            found.local = self.local(found.samples)
        return found

    @cached_property
    def judges(self) -> tuple[list[ConfiguredPlugin], Records]:
        """The metrics that say how good a merged model is, and their records.

        These are those of accuracy and loss and the run's own, if they return keys
        of a merged model: others, which may take long, would say the same of every
        merge.
        """
        named = ["accuracy", "loss", *self.setup.config.metrics]
        rules = {rule.name: rule for rule in (build("metric", one) for one in named)}
        records = records_of(declared_records(rules.values()))
        found = [
            rule
            for rule in rules.values()
            if records.merged(check_values(rule, rule(self.snapshot), {}))
        ]
        return found, records

    def judge(self, row: Tensor) -> dict[str, float]:
        """Return what the metrics of the run say of its models, and of their merge
        into a row.
        """
        snapshot = self.snapshot.with_merge(row)
        found: dict[str, float] = {}
        for rule in self.judges[0]:
            found |= check_values(rule, rule(snapshot), found)
        return found

    def state(self, node: NodeId) -> dict[str, Tensor]:
        """Return the state dict of a node's model, with buffers of its own."""
        if node not in self.live:
            raise ConfigError(f"node {node} was lost before step {self.step}.")
        place = self.live.index(node)
        own = {name: value[place : place + 1] for name, value in self.own.items()}
        return self.evaluator.state(self.rows[place], own)

    def merged_state(self, row: Tensor) -> dict[str, Tensor]:
        """Return the state dict of what was made of the models, BatchNorm
        re-estimated.
        """
        calibrated = self.evaluator.calibrate_row(row, self.integers)
        return self.evaluator.state(calibrated, self.integers)

    def models(self) -> Models:
        """Return what merge rules may know."""
        setup = self.setup
        return Models(
            rows=self.rows,
            samples=setup.samples_held[self.live],
            start=setup.initial_rows([NodeId(0)])[0].to(self.rows),
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
        """Return the loss of one row on validation data; without any, on training
        data.
        """
        return self.scores([row], self.judging).loss.item()

    def local(self, samples: Samples) -> Scores:
        """Return loss and accuracy of the models that were trained, with buffers of
        their own.
        """
        own = (
            {k: v[i : i + 1] for k, v in self.own.items()} for i in range(len(self.rows))
        )
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
        return Scores(
            torch.cat([part.loss for part in parts]), torch.cat(right) if right else None
        )

    def _together(self, some: Sequence[Model], samples: Samples) -> Scores:
        evaluator, setup = self.evaluator, self.setup
        rows = torch.stack([evaluator.calibrate_row(*model) for model in some])
        integers = {
            name: torch.cat([whole[name] for _, whole in some])
            for name in setup.layout.integers
        }
        return score(
            setup.task, evaluator.forward, rows, integers, samples, evaluator.chunk
        )

    def fisher(self, index: int, empirical: bool = False) -> Tensor:
        """Return the mean squared gradient of a model on single samples of its own
        node, [P].

        Buffers, which have no gradient, count like the mean of the parameters.

        Args:
            index: The model.
            empirical: Whether labels are those of the data, not drawn from what the
                model predicts.
        """
        setup, place = self.setup, self.block.hosted.index(self.live[index])
        batch = self.block.sampler.batch(0, FISHER_SAMPLES)
        inputs, targets = (
            tree_map(lambda t: t[place].unsqueeze(1), part)
            for part in (batch.inputs, batch.targets)
        )
        # A copy of the row for each sample: one backward pass of the sum then gives
        # the gradient of every single sample.
        rows = self.rows[index].expand(FISHER_SAMPLES, -1).clone().requires_grad_()
        forward = self.evaluator.forward_of(
            share_parameters(setup.model).eval(), setup.layout, own=True
        )
        whole = {k: v[place].expand(FISHER_SAMPLES, *v[place].shape)
                 for k, v in self.block.integers.items()}  # fmt: skip
        outputs = forward(rows, whole, inputs)
        losses: list[Tensor] = []
        for i in range(FISHER_SAMPLES):
            output, target = tree_at(outputs, i), tree_at(targets, i)
            drawn = None if empirical else own_labels(output, target, i)
            losses.append(setup.task.loss(output, target if drawn is None else drawn))
        (gradients,) = torch.autograd.grad(torch.stack(losses).sum(), rows)
        squared = gradients.square().mean(0)
        columns = setup.layout.trainable
        squared[columns:] = squared[:columns].mean()
        return squared


def own_labels(output: Any, targets: Any, sample: int) -> Tensor | None:
    """Draw labels from what a model predicts for one sample, None where its targets are
    no classes; what is left out of the loss stays so.
    """
    if not isinstance(output, Tensor) or not is_whole(targets):
        return None
    if output.dim() != targets.dim() + 1:
        return None
    # Classes stand last, or second where places of an image follow.
    scores = output if output.shape[:-1] == targets.shape else output.movedim(1, -1)
    if scores.shape[:-1] != targets.shape:
        return None
    flat = scores.detach().reshape(-1, scores.shape[-1]).log_softmax(-1)
    drawn = draw_labels(flat, "fisher", sample).reshape(targets.shape)
    return torch.where(targets < 0, targets, drawn.to(targets))


def differing(setup: Setup, saved: Iterable[Saved], needed: bool = True) -> TrainedModels:
    """Return the newest checkpoint whose models are not all the same, as they are
    after a merge.

    Where there is none, that is a ConfigError if it is ``needed``, else the newest.
    """
    newest = None
    for each in saved:
        found = TrainedModels(setup, each)
        # A final merge leaves nothing to look at: the checkpoint before it is
        # wanted.
        if len(found.rows) < 2 or not bool((found.rows == found.rows[0]).all()):
            return found
        newest = newest or found
    if newest and not needed:
        return newest
    raise ConfigError(
        "in every checkpoint all models are the same; launch with "
        "communication.final_merge=false, or a larger keep_checkpoints."
    )


# --- text -------------------------------------------------------------------------


@torch.no_grad()
def generate(setup: Setup, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return texts that the merged model goes on with, where it predicts tokens: what
    each begins with, and what the model adds.

    Draws are functions of seed, text and place. The model reads as many tokens as in
    training, of which it has to know no other number; those behind the text it does
    not look at, for it predicts the next of each.

    Args:
        setup: The run.
        folder: Of the run, which has written the merged model.
    """
    asked = setup.task.continued
    if asked is None:
        return {}
    model = setup.module(load_file(folder / "merged.safetensors"))
    width = setup.train.first.shape[1]
    found = [list(prompt) for prompt in asked.prompts]
    for place in range(GENERATED):
        read = torch.zeros(len(found), width, dtype=setup.train.first.dtype)
        ends = [min(len(text), width) for text in found]
        for row, text, end in zip(read, found, ends, strict=True):
            row[:end] = torch.tensor(text[-width:])
        scores = model(read.to(setup.device))
        if scores.dim() != 3 or scores.shape[:2] != read.shape:
            return {}
        last = scores[range(len(found)), [end - 1 for end in ends]].double().cpu()
        likely = (last[:, : setup.task.outputs] / TEMPERATURE).softmax(1).cumsum(1)
        drawn = rng.uniform(setup.config.seed, "generate", np.arange(len(found)), place)
        for text, sums, draw in zip(found, likely, drawn, strict=True):
            # Rounding may leave the last sum below 1, and nan has no order at all.
            chosen = int(torch.searchsorted(sums, draw * float(sums[-1])))
            text.append(min(chosen, len(sums) - 1))
    ends = map(len, asked.prompts)
    written = [
        {"prompt": asked.write(text[:end]), "text": asked.write(text[end:])}
        for text, end in zip(found, ends, strict=True)
    ]
    return {"generated": written}
