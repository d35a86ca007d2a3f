"""From a batch to the gradients that the optimizer sees: one order for all methods.

batch -> gradient (mean over micro-batches) -> [average over nodes] -> clip per row -> optimizer.
Nothing here looks at another row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.gradients import Batch, Gradient, choose
from decentral.loop.setup import Setup
from decentral.sampling import Sampler


class Pipeline:
    """Computes the gradients of a block's rows and prepares them for the optimizer, in place.

    ``compute`` is the plain gradient on one batch; ``reason`` says, in words, how it was chosen.
    """

    def __init__(
        self,
        setup: Setup,
        rows: Tensor,
        integers: dict[str, Tensor],
        grads: Tensor,
        sampler: Sampler,
    ) -> None:
        """Serve the block ``rows`` [n, P], with gradients in ``grads`` [n, P]."""
        self.setup, self.rows, self.integers, self.grads = setup, rows, integers, grads
        self.compute, self.reason = gradient_of(setup, rows.shape[0], sampler)

    def gradient(self, batch: Batch) -> Tensor:
        """Write every row's gradient on its samples of the batch; return losses [n]."""
        return self._mean(batch)

    def condition(self) -> None:
        """Clip the gradients, each row by its own norm."""
        limit = self.setup.config.clip
        if limit is not None:
            norms = self.setup.layout.trainable_view(self.grads).norm(dim=1, keepdim=True)
            self.grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0))

    def _mean(self, batch: Batch) -> Tensor:
        """Compute the gradients of the whole batch, micro-batch by micro-batch."""
        parts = batch.micro(self.setup.config.micro_batch)
        losses = self.compute(self.rows, self.integers, parts[0], self.grads)
        if len(parts) == 1:
            return losses
        size = batch.inputs.shape[1]
        share = parts[0].inputs.shape[1] / size
        self.grads.mul_(share)
        losses = losses * share
        scratch = torch.zeros_like(self.grads)  # padding is never written
        for part in parts[1:]:
            share = part.inputs.shape[1] / size
            found = self.compute(self.rows, self.integers, part, scratch)
            self.grads.add_(scratch, alpha=share)
            losses = losses + share * found
        return losses


def gradient_of(setup: Setup, nodes: int, sampler: Sampler) -> tuple[Gradient, str]:
    """Choose how a block of ``nodes`` rows computes its gradients; say why."""
    first = setup.first_batch
    return choose(
        setup.config.replicas,
        setup.model,
        setup.layout,
        setup.task.loss,
        nodes,
        lambda: sampler.batch(0, first),
    )
