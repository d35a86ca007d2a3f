"""From a batch to the gradients that the optimizer sees: one order for all methods.

batch -> targets (of bad nodes, label noise, smoothing) -> inputs (adversarial) -> gradient (SAM
takes it twice; the mean over micro-batches inside) -> [average over nodes] -> clip per row ->
optimizer (its ``grad_power`` first). What is on is read from progress. Nothing here looks at
another row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from decentral.gradients import Batch, Gradient, choose
from decentral.gradients.adversarial import Attack
from decentral.gradients.sam import SharpnessAware
from decentral.loop.methods import changed_targets
from decentral.loop.setup import Setup
from decentral.sampling import Drawn, Sampler
from decentral.schedules import Progress
from decentral.schedules.methods import Adversarial


class Pipeline:
    """Computes the gradients of a block's rows and prepares them for the optimizer, in place.

    ``compute`` is the plain gradient on one batch; ``reason`` says, in words, how it was chosen.
    ``sharp`` says whether the last gradient was SAM's (None before the first), ``restarts`` that
    the optimizer's state is of the time before SAM turned on or off, and is to be forgotten.
    """

    def __init__(
        self,
        setup: Setup,
        rows: Tensor,
        integers: dict[str, Tensor],
        grads: Tensor,
        sampler: Sampler,
        hosted: Sequence[int],
    ) -> None:
        """Serve the block ``rows`` [n, P] of nodes ``hosted``, with gradients in ``grads``."""
        self.hosted = hosted
        self.setup, self.rows, self.integers, self.grads = setup, rows, integers, grads
        self.compute, self.reason = gradient_of(setup, rows.shape[0], sampler)
        self.sharp: bool | None = None
        self.restarts = False

    def gradient(self, batch: Drawn, progress: Progress) -> Tensor:
        """Write every row's gradient on its samples of the batch; return losses [n]."""
        parts = self._parts(batch, progress)
        losses = self._mean(parts(), batch.size)
        sam = self.setup.config.sam
        if sam is not None:
            before, self.sharp = self.sharp, sam.on(progress)
            switched = before is not None and before != self.sharp
            self.restarts = switched and sam.momentum == "restart"
            if self.sharp and sam.rho:
                again = lambda: self._mean(parts(), batch.size)  # noqa: E731
                self.sam(again, self.grads, sam.rho, sam.adaptive)
        return losses

    def _parts(self, batch: Drawn, progress: Progress) -> Callable[[], Iterator[Batch]]:
        """Return what yields the micro-batches that this step learns from, as often as asked.

        They are drawn anew each time, so that memory does not grow with the batch; attacked inputs
        are kept, since both gradients of SAM see the same.
        """

        def parts() -> Iterator[Batch]:
            for part in batch.micro(self.setup.micro_batch):
                yield self._changed(part, progress)

        adversarial = self.setup.config.adversarial
        if adversarial is None or not adversarial.on(progress):
            return parts
        kept = list(parts())
        return lambda: iter(kept)

    def _changed(self, batch: Batch, progress: Progress) -> Batch:
        """Return a micro-batch with the targets and inputs that this step learns from."""
        config, task, bad = self.setup.config, self.setup.task, self.setup.attackers
        if bad.on(progress, data=True):
            targets = bad.taught(batch.targets, self.hosted, len(task.classes or ()))
            batch = replace(batch, targets=targets)
        noisy = config.label_noise is not None and config.label_noise.on(progress)
        if noisy or config.label_smoothing:
            targets = changed_targets(config, task, batch.targets, batch.keys, noisy)
            batch = replace(batch, targets=targets)
        if config.adversarial is not None and config.adversarial.on(progress):
            batch = replace(batch, inputs=self._attacked(batch, config.adversarial))
        return batch

    def _attacked(self, batch: Batch, how: Adversarial) -> Tensor:
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
        bounds = low.item(), high.item()
        return Attack(setup.model, setup.layout, setup.task.loss, self.compute.kind, bounds)

    def condition(self) -> None:
        """Clip the gradients, each row by its own norm."""
        limit = self.setup.config.clip
        if limit is not None:
            norms = self.setup.layout.trainable_view(self.grads).norm(dim=1, keepdim=True)
            self.grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0))

    def _mean(self, parts: Iterator[Batch], size: int) -> Tensor:
        """Compute the gradients of a batch of ``size``, micro-batch by micro-batch."""
        first = next(parts)
        losses = self.compute(self.rows, self.integers, first, self.grads)
        share = first.inputs.shape[1] / size
        if share == 1.0:
            return losses
        self.grads.mul_(share)
        losses = losses * share
        scratch = torch.zeros_like(self.grads)  # padding is never written
        for part in parts:
            share = part.inputs.shape[1] / size
            found = self.compute(self.rows, self.integers, part, scratch)
            self.grads.add_(scratch, alpha=share)
            losses = losses + share * found
        return losses


def gradient_of(setup: Setup, nodes: int, sampler: Sampler) -> tuple[Gradient, str]:
    """Choose how a block of ``nodes`` rows computes its gradients; say why."""
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
    )
