"""Adversarial inputs: projected gradient ascent within a box around every input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap

from decentral.gradients import draws
from decentral.gradients.loop import looped_forward
from decentral.gradients.stacked import stacked_forward
from decentral.layout import Layout, shadow


class Attack:
    """Moves inputs by at most ``eps`` per number so that the loss of each row's model rises.

    d <- clip(d + step_size sign(grad_x loss(x + d)), -eps, eps), ``steps`` times, from a uniform
    start that is keyed by the sample's visit; x + d stays within ``bounds``. The model is in
    evaluation mode. (Madry et al., "Towards deep learning models resistant to adversarial attacks",
    ICLR 2018.)
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        loss: Callable[[Tensor, Tensor], Tensor],
        kind: str,
        bounds: tuple[float, float],
    ) -> None:
        """Prepare for one model and loss; ``kind`` is how rows are computed: vmap or loop."""
        forward = stacked_forward if kind == "vmap" else looped_forward
        self.forward = forward(shadow(model).eval(), layout, own=True)
        self.bounds = bounds
        self.losses = vmap(cast(Any, loss)) if kind == "vmap" else _looped(loss)

    def __call__(
        self,
        rows: Tensor,
        integers: dict[str, Tensor],
        batch: Any,
        *,
        eps: float,
        steps: int,
        step_size: float,
    ) -> Tensor:
        """Return the inputs [n, B, ...] that the models of ``rows`` [n, P] find hard."""
        clean = batch.inputs
        low = (clean - eps).clamp_min(self.bounds[0])
        high = (clean + eps).clamp_max(self.bounds[1])
        chance = draws.uniform(batch.keys, clean[0, 0].numel(), draws.ATTACK)
        shift = ((2.0 * chance - 1.0) * eps).to(clean.dtype).view(clean.shape)
        moved = torch.clamp(clean + shift, low, high)
        for _ in range(steps):
            uphill = self._slope(rows, integers, moved, batch.targets).sign_()
            moved = torch.clamp(moved + step_size * uphill, low, high)
        return moved

    def _slope(
        self, rows: Tensor, integers: dict[str, Tensor], inputs: Tensor, targets: Tensor
    ) -> Tensor:
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            losses: Tensor = self.losses(self.forward(rows, integers, leaf), targets)
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return slope


def _looped(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([loss(y, t) for y, t in zip(outputs, targets, strict=True)])

    return losses
