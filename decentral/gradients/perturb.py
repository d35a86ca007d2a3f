"""Gradients of something else than what was drawn: of batches with label noise,
smoothing or adversarial inputs, and of rows where the loss is worst nearby.

Keys [n, B] name the visits of samples, so that noise is a pure function of seed,
node and position.

Sharpness-aware minimisation takes the gradient where the loss is worst nearby:

e = rho g / |g|, or with ``adaptive`` (ASAM) e = rho x^2 g / | |x| g |; the step is
taken from x with the gradient at x + e. (Foret et al., "Sharpness-aware
minimization for efficiently improving generalization", ICLR 2021; Kwon et al.,
"ASAM", ICML 2021; late in training: Zhou et al., "Sharpness-aware minimization
efficiently selects flatter minima late in training", ICLR 2025.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
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
        # Keyed by the visit, so that both gradients of SAM, and a resumed run, see
        # the same.
        chance = draws.uniform(batch.keys, clean[0, 0].numel(), draws.ATTACK)
        return ascend(
            clean, 2.0 * chance.to(clean.dtype).view(clean.shape) - 1.0, eps, self.bounds,
            lambda moved: self._slope(rows, integers, moved, batch.targets),
            steps, step_size,
        )  # fmt: skip

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


def ascend(
    clean: Tensor,
    begin: Tensor,
    eps: float,
    bounds: tuple[float, float],
    slope: Callable[[Tensor], Tensor],
    steps: int,
    step_size: float,
) -> Tensor:
    """Return inputs within ``eps`` of the clean ones at which the loss is high.

    Args:
        clean: The clean inputs.
        begin: Where the ascent begins, as a share of ``eps`` in [-1, 1], a number each.
        eps: Largest change of one number.
        bounds: Least and greatest number that an input may have.
        slope: The slope of the loss at inputs.
        steps: Steps of the ascent.
        step_size: What a number moves by in each.
    """
    low, high = (clean - eps).clamp_min(bounds[0]), (clean + eps).clamp_max(bounds[1])
    moved = torch.clamp(clean + begin * eps, low, high)
    for _ in range(steps):
        moved = torch.clamp(moved + step_size * slope(moved).sign(), low, high)
    return moved


def _loop_over(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([loss(y, t) for y, t in zip(outputs, targets, strict=True)])

    return losses


# --- sharpness-aware minimisation -------------------------------------------------


_TINY = 1e-12


def climb(rows: Tensor, grads: Tensor, rho: float, adaptive: bool) -> None:
    """Move every row [n, P] to its worst point within ``rho``, by its own
    gradient's norm.

    Args:
        rows: Rows, [n, P]; changed in place.
        grads: Their gradients, [n, P].
        rho: Length of the ascent.
        adaptive: Whether it is measured relative to the size of each parameter.
    """
    # The norm is each row's own: every node climbs as if it were alone.
    push = _push(rows, grads, adaptive)
    _move(rows, push, rho / (push.norm(dim=1, keepdim=True) + _TINY), adaptive)


def _push(x: Tensor, grad: Tensor, adaptive: bool) -> Tensor:
    """Return that whose norm is taken: g, or |x| g."""
    return grad * x.abs() if adaptive else grad


def _move(x: Tensor, push: Tensor, scale: Tensor, adaptive: bool) -> None:
    """Move by e, which is the push times rho over its norm, and once more |x| if
    adaptive.
    """
    x.add_(push * x.abs() * scale if adaptive else push * scale)


class SharpnessAware:
    """Takes the gradient of a block of rows again, at their worst points.

    The rows, BatchNorm statistics included, are afterwards what the first gradient
    left, bit by bit: statistics see every batch once.
    """

    def __init__(self, rows: Tensor, integers: dict[str, Tensor], trainable: int) -> None:
        """Serve ``rows`` [n, P], of which the first ``trainable`` columns move."""
        self.rows, self.integers, self.trainable = rows, integers, trainable
        self.kept = torch.empty_like(rows)

    def __call__(
        self, again: Callable[[], object], grads: Tensor, rho: float, adaptive: bool
    ) -> None:
        """Let ``again`` write the gradients at the worst points over those in
        ``grads`` [n, P].
        """
        whole = {name: value.clone() for name, value in self.integers.items()}
        self.kept.copy_(self.rows)
        climb(self.rows[:, : self.trainable], grads[:, : self.trainable], rho, adaptive)
        again()
        # All columns, the statistics too, which the second pass has moved once
        # more. Taking the step back by subtraction would not give the same bits.
        self.rows.copy_(self.kept)
        for name, value in whole.items():
            self.integers[name].copy_(value)


@contextmanager
def sharpness_aware(
    model: nn.Module, rho: float = 0.05, *, adaptive: bool = False
) -> Generator[None]:
    """Use SAM in any training loop: inside, ``model`` stands where its loss is
    worst nearby.

    Enter with the gradient of a batch; take the gradient of the same batch again,
    inside; step after. Gradients are zeroed on entry. Parameters return exactly;
    buffers, such as the statistics of BatchNorm, too.

    Args:
        model: The module whose loss is looked at.
        rho: Length of the ascent.
        adaptive: Whether it is measured relative to the size of each parameter.

    >>> model = nn.Linear(3, 1)
    >>> sgd, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.ones(8, 3)
    >>> model(x).square().mean().backward()
    >>> with sharpness_aware(model, rho=0.05):
    ...     model(x).square().mean().backward()
    >>> sgd.step()
    """
    moved = [p for p in model.parameters() if p.grad is not None]
    # Copies, since subtracting what was added would not give the same bits.
    kept = [t.detach().clone() for t in (*moved, *model.buffers())]
    grads = [p.grad for p in moved if p.grad is not None]
    with torch.no_grad():
        pushes = [_push(p, g, adaptive) for p, g in zip(moved, grads, strict=True)]
        norm = torch.stack([push.norm() for push in pushes]).norm() + _TINY
        for parameter, push in zip(moved, pushes, strict=True):
            _move(parameter, push, rho / norm, adaptive)
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip((*moved, *model.buffers()), kept, strict=True):
                tensor.copy_(value)
