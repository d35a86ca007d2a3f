"""What becomes of a batch before its gradient is taken: label noise, smoothing,
adversarial inputs.

Keys [n, B] name the visits of samples, so that noise is a pure function of seed,
node and position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import one_hot

from decentral.errors import ConfigError
from decentral.gradients import draws
from decentral.gradients.autograd import make_looped_forward, make_stacked_forward
from decentral.layout import Layout, share_parameters


def flip_classes(targets: Tensor, keys: Tensor, level: float, classes: int) -> Tensor:
    """Replace classes [n, B, ...], each with chance ``level``, by one drawn from
    all, its own too.

    Args:
        targets: Classes, [n, B, ...].
        keys: Key of every sample, [n, B].
        level: Chance of a target to be replaced.
        classes: Number of classes.

    >>> clean = torch.zeros(1, 4, dtype=torch.int64)
    >>> flip_classes(clean, torch.arange(4)[None], level=0.0, classes=3).tolist()
    [[0, 0, 0, 0]]
    """
    size = targets[0, 0].numel()
    changed = draws.uniform(keys, size, draws.CHANCE).view(targets.shape) < level
    drawn = (draws.uniform(keys, size, draws.CLASS) * classes).to(targets.dtype)
    # A draw just below 1 may round up to the number of classes.
    return torch.where(changed, drawn.clamp_max(classes - 1).view(targets.shape), targets)


def add_noise(targets: Tensor, keys: Tensor, level: float, kind: str) -> Tensor:
    """Add ``level`` times noise to numbers [n, B, ...]: standard normal, or a
    random ``sign``.

    Args:
        targets: Numbers, [n, B, ...].
        keys: Key of every sample, [n, B].
        level: Size of the noise.
        kind: ``gaussian`` or ``sign``.
    """
    size = targets[0, 0].numel()
    if kind == "gaussian":
        noise = draws.normal(keys, size)
    else:
        noise = 1.0 - 2.0 * (draws.uniform(keys, size, draws.NOISE) < 0.5).double()
    return targets + (level * noise).to(targets.dtype).view(targets.shape)


def smooth_labels(
    targets: Tensor, share: float, classes: int, dtype: torch.dtype
) -> Tensor:
    """Return probabilities [n, B, ..., C]: ``share`` spread over all, the rest on
    the target.

    Args:
        targets: Classes, [n, B, ...].
        share: Probability that is spread over all classes.
        classes: Number of classes, C.
        dtype: Type of the probabilities.
    """
    return one_hot(targets, classes).to(dtype) * (1.0 - share) + share / classes


# --- adversarial inputs -----------------------------------------------------------


class Attack:
    """Moves inputs by at most ``eps`` per number so that the loss of each row's
    model rises.

    d <- clip(d + step_size sign(grad_x loss(x + d)), -eps, eps), ``steps`` times,
    from a uniform start that is keyed by the sample's visit; x + d stays within
    ``bounds``. The model is in evaluation mode. (Madry et al., "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018.)
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        loss: Callable[[Tensor, Tensor], Tensor],
        kind: str,
        bounds: tuple[float, float],
    ) -> None:
        """Prepare for one model and loss; ``kind`` is how rows are computed: vmap
        or loop.
        """
        forward = make_stacked_forward if kind == "vmap" else make_looped_forward
        self.forward = forward(share_parameters(model).eval(), layout, own=True)
        self.bounds = bounds
        self.losses = vmap(cast(Any, loss)) if kind == "vmap" else _loop_over(loss)

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
        """Return the inputs [n, B, ...] that the models of ``rows`` [n, P] find
        hard.
        """
        clean = batch.inputs
        low = (clean - eps).clamp_min(self.bounds[0])
        high = (clean + eps).clamp_max(self.bounds[1])
        # Keyed by the visit, so that both gradients of SAM, and a resumed run, see
        # the same.
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
            if not losses.requires_grad:
                raise ConfigError(
                    "adversarial: the loss of this task does not depend on its inputs; "
                    "leave adversarial out."
                )
            # Rows have inputs of their own: the sum has each one's slope, all in
            # one pass.
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return slope


def _loop_over(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([loss(y, t) for y, t in zip(outputs, targets, strict=True)])

    return losses
