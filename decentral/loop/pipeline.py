"""From a batch to the gradients that the optimizer sees: one order for all methods.

batch -> targets (of bad nodes, label noise, smoothing) -> inputs (adversarial) ->
gradient (SAM takes it twice; the mean over micro-batches inside) -> [average over
nodes] -> clip per number, then per row -> optimizer (its ``grad_power`` first).
What is on is read from progress. Nothing here looks at another row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from decentral.config import Config
from decentral.errors import ConfigError
from decentral.gradients.base import Batch, Gradient
from decentral.gradients.choice import choose
from decentral.gradients.perturb import (
    Attack,
    SharpnessAware,
    add_noise,
    flip_classes,
    smooth_labels,
)
from decentral.layout import share_parameters
from decentral.loop.models import check_evaluation
from decentral.loop.setup import Setup
from decentral.plugins import label_of
from decentral.sampling import OwnPace, Sampler
from decentral.schedules.phases import METHODS, Adversarial, LabelNoise, Timed
from decentral.schedules.progress import Progress
from decentral.tasks.base import Task
from decentral.topology.labels import NodeId, NodeLabels


class Pipeline:
    """Computes the gradients of a block's rows and prepares them for the optimizer,
    in place.

    ``compute`` is the plain gradient on one batch; ``reason`` says, in words, how
    it was chosen. ``sharp`` says whether the last gradient was SAM's (None before
    the first), ``restarts`` that the optimizer's state is of the time before SAM
    turned on or off, and is to be forgotten.
    """

    def __init__(
        self,
        setup: Setup,
        rows: Tensor,
        integers: dict[str, Tensor],
        grads: Tensor,
        sampler: Sampler | OwnPace,
        hosted: Sequence[NodeId],
        chosen: tuple[Gradient, str] | None = None,
    ) -> None:
        """Serve the block ``rows`` [n, P] of nodes ``hosted``, with gradients in
        ``grads``.

        Args:
            setup: The run.
            rows: The block, [n, P].
            integers: The integer buffers of its rows.
            grads: Where gradients are written, [n, P].
            sampler: What draws batches.
            hosted: Whose rows they are.
            chosen: What computes gradients, and why; none: as the run asks.
        """
        self.hosted = hosted
        self.setup, self.rows, self.integers, self.grads = setup, rows, integers, grads
        if chosen is None:
            assert isinstance(sampler, Sampler)
            chosen = gradient_of(setup, rows.shape[0], sampler)
        self.compute, self.reason = chosen
        self.sampler = sampler
        self.sharp: bool | None = None
        self.restarts = self.attacks = False
        self.attacked: dict[int, Batch] = {}

    def gradient(self, progress: Progress, size: int) -> Tensor:
        """Write every row's gradient on its next ``size`` samples; return losses
        [n].
        """
        adversarial = self.setup.config.adversarial
        self.attacks = adversarial is not None and adversarial.on(progress)
        # Of the last step; SAM's second pass of this one finds those of its first.
        self.attacked.clear()
        losses = self._mean(progress, size)
        sam = self.setup.config.sam
        if sam is not None:
            before, self.sharp = self.sharp, sam.on(progress)
            switched = before is not None and before != self.sharp
            self.restarts = switched and sam.momentum == "restart"
            if self.sharp and sam.rho:
                again = lambda: self._mean(progress, size)  # noqa: E731
                self.sam(again, self.grads, sam.rho, sam.adaptive)
        return losses

    def _mean(self, progress: Progress, size: int) -> Tensor:
        """Compute the gradients of the next ``size`` samples, micro-batch by
        micro-batch.

        Micro-batches are drawn when they are needed, so that memory does not grow
        with the batch.
        """
        most = self.setup.micro_batch
        losses = self.compute(
            self.rows,
            self.integers,
            self._micro_batch(progress, 0, min(most, size)),
            self.grads,
        )
        if size <= most:
            return losses
        # The first part was written in place, which spares plain steps a buffer.
        # Parts are weighted by size, so that a short last one gives the gradient of
        # the whole batch.
        self.grads.mul_(most / size)
        losses = losses * (most / size)
        scratch = torch.zeros_like(self.grads)  # padding is never written
        for begin in range(most, size, most):
            part = self._micro_batch(progress, begin, min(most, size - begin))
            share = part.keys.shape[1] / size
            found = self.compute(self.rows, self.integers, part, scratch)
            self.grads.add_(scratch, alpha=share)
            losses = losses + share * found
        return losses

    def _micro_batch(self, progress: Progress, begin: int, count: int) -> Batch:
        """Return ``count`` samples of this step from the ``begin``-th, as it learns
        from them.

        Attacked inputs are kept, since both gradients of SAM see the same.
        """
        if begin in self.attacked:
            return self.attacked[begin]
        config, task, bad = self.setup.config, self.setup.task, self.setup.attackers
        batch = self.sampler.batch(progress.samples + begin, count)
        if bad.nodes and bad.on(progress, data=True):
            # In this order: a flip takes classes, smoothing makes distributions of
            # them, and the attack on inputs climbs the loss of the final targets.
            targets = bad.falsify_targets(batch.targets, self.hosted, task.outputs)
            batch = replace(batch, targets=task.restore_ignored(targets, batch.targets))
        noisy = config.label_noise is not None and config.label_noise.on(progress)
        if noisy or config.label_smoothing:
            targets = change_targets(config, task, batch.targets, batch.keys, noisy)
            batch = replace(batch, targets=targets)
        if config.adversarial is not None and self.attacks:
            batch = replace(batch, inputs=self._attack(batch, config.adversarial))
            self.attacked[begin] = batch
        return batch

    def _attack(self, batch: Batch, how: Adversarial) -> Tensor:
        step = how.step_size or how.eps / 2
        return self.attack(
            self.rows, self.integers, batch, eps=how.eps, steps=how.steps, step_size=step
        )

    @cached_property
    def sam(self) -> SharpnessAware:
        """What takes the gradient again at the worst point nearby."""
        return SharpnessAware(self.rows, self.integers, self.setup.layout.trainable)

    @cached_property
    def attack(self) -> Attack:
        """What moves inputs, within the range of the training inputs."""
        setup = self.setup
        low, high = setup.train.inputs.aminmax()
        # Attacked inputs stay what inputs can be: pixels beyond white would be no
        # images.
        bounds = low.item(), high.item()
        return Attack(
            setup.model, setup.layout, setup.task.loss, self.compute.kind, bounds
        )

    def clip(self, rows: Sequence[int] | None = None) -> None:
        """Clip the gradients as the run says, first every number, then each row by its
        own norm; only those of some ``rows``, where given.
        """
        value, limit = self.setup.config.clip_value, self.setup.config.clip
        if value is None and limit is None:
            return
        grads = self.grads if rows is None else self.grads[rows]
        trainable = self.setup.layout.trainable_view(grads)
        if value is not None:
            trainable.clamp_(-value, value)
        if limit is not None:
            # As ``torch.nn.utils.clip_grad_norm_``, 1e-6 included: the same bits for
            # one node.
            norms = trainable.norm(dim=1, keepdim=True)
            grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0))
        if rows is not None:
            self.grads[rows] = grads


def gradient_of(setup: Setup, nodes: int, sampler: Sampler) -> tuple[Gradient, str]:
    """Choose how a block of ``nodes`` rows computes its gradients; say why.

    Args:
        setup: The run.
        nodes: Rows of the block.
        sampler: What draws its batches.
    """
    label = label_of(setup.parts["model"]) if "model" in setup.parts else "the model"
    check_evaluation(setup.model, setup.task, label)
    first = min(setup.first_batch, setup.micro_batch)
    return choose(
        setup.config.replicas,
        setup.model,
        setup.layout,
        setup.task.loss,
        nodes,
        lambda: sampler.batch(0, first),
        setup.config.precision,
        setup.config.compile,
        label,
        setup.config.activation_checkpointing,
    )


# --- methods, checked before ------------------------------------------------------


def with_numbers(config: Config, nodes: NodeLabels) -> Config:
    """Return the configuration with nodes of ``node_lr`` by number, be they given
    by label.

    Args:
        config: The configuration.
        nodes: The nodes, and what the topology calls them.
    """
    if not config.node_lr:
        return config
    numbers = nodes.numbers("node_lr", config.node_lr)
    if twice := sorted(node for node in set(numbers) if numbers.count(node) > 1):
        raise ConfigError(
            f"node_lr: node {twice[0]} is given twice, by number and label."
        )
    factors = dict(zip(numbers, config.node_lr.values(), strict=True))
    return config.model_copy(update={"node_lr": factors})


def check_methods(config: Config, task: Task, model: nn.Module) -> None:
    """Raise ConfigError for phases that are not there, and for what the task
    forbids.

    Args:
        config: The configuration.
        task: The task.
        model: The module.
    """
    if config.precision != "same" and config.dtype != "float32":
        raise ConfigError(
            f"precision {config.precision} computes for rows in float32, and these are in "
            f"{config.dtype}; leave dtype or precision out."
        )
    if config.compile is not None and config.replicas in ("loop", "tune"):
        raise ConfigError(
            f"compile: what is compiled computes all rows together; leave replicas "
            f"{config.replicas} or compile out."
        )
    if config.activation_checkpointing and (config.compile or config.replicas == "vmap"):
        other = "compile" if config.compile else "replicas vmap"
        raise ConfigError(
            f"activation_checkpointing computes one row at a time; leave {other} out."
        )
    for name in METHODS:
        chosen: Timed | None = getattr(config, name)
        if chosen is not None:
            chosen.when.check(name, config.steps)
    if config.adversarial is not None and task.gives != "numbers":
        raise ConfigError(
            f"adversarial: the inputs of this task are {task.gives}, which cannot be moved a "
            "little; leave adversarial out."
        )
    if config.label_smoothing and not task.classes:
        raise ConfigError(
            "label_smoothing: the targets of this task are not classes; leave label_smoothing out."
        )
    if config.label_smoothing and task.ignores(task.splits[0].targets):
        raise ConfigError(
            f"label_smoothing: some targets of this task are {task.ignore_index}, which the loss "
            "ignores, and has no smooth form; leave label_smoothing out."
        )
    if config.label_noise is not None:
        _check_noise(config.label_noise, task, model)


def _check_noise(noise: LabelNoise, task: Task, model: nn.Module) -> None:
    kind = noise.kind_for(task.classes)
    if task.classes:
        if kind != "flip":
            raise ConfigError(
                f"label_noise: kind {kind} adds to numbers, and the targets of this task are "
                f"{len(task.classes)} classes; use kind flip."
            )
        if noise.level > 1:
            raise ConfigError(
                f"label_noise: level {noise.level:g} is the chance that a class is redrawn; "
                "it must be at most 1."
            )
        return
    if kind == "flip":
        raise ConfigError(
            "label_noise: kind flip needs classes, which the targets of this task are not; "
            "use kind gaussian or sign."
        )
    if not _has_labels(task, model):
        raise ConfigError(
            "label_noise: this task has no labels: its targets are not what the model should "
            "answer; leave label_noise out."
        )


def _has_labels(task: Task, model: nn.Module) -> bool:
    """Whether the targets are numbers in the shape of the model's outputs."""
    weight = next(model.parameters())
    first = task.splits[0].subset(torch.arange(1)).to(weight.device, weight.dtype)
    with torch.no_grad():
        outputs = share_parameters(model).eval()(first.first)
    numbers = isinstance(first.targets, Tensor) and first.targets.is_floating_point()
    return numbers and outputs.shape == first.targets.shape


def change_targets(
    config: Config, task: Task, targets: Tensor, keys: Tensor, noisy: bool
) -> Any:
    """Return the targets [n, B, ...] to learn from: ``noisy`` or not, and smoothed.

    Args:
        config: The configuration.
        task: The task.
        targets: Targets of the batch, [n, B, ...].
        keys: Key of every sample, [n, B].
        noisy: Whether label noise is on.
    """
    noise, classes, given = config.label_noise, task.outputs, targets
    if noisy and noise is not None and noise.level:
        kind = noise.kind_for(task.classes)
        if kind == "flip":
            # Targets that the loss ignores stay what they are.
            targets = task.restore_ignored(
                flip_classes(targets, keys, noise.level, classes), given
            )
        else:
            targets = add_noise(targets, keys, noise.level, kind)
    if config.label_smoothing:
        targets = smooth_labels(
            targets, config.label_smoothing, classes, getattr(torch, config.dtype)
        )
    return targets
