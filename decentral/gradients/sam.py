"""Sharpness-aware minimisation: the gradient where the loss is worst nearby.

e = rho g / |g|, or with ``adaptive`` (ASAM) e = rho x^2 g / | |x| g |; the step is
taken from x with the gradient at x + e. (Foret et al., "Sharpness-aware
minimization for efficiently improving generalization", ICLR 2021; Kwon et al.,
"ASAM", ICML 2021; late in training: Zhou et al., "Sharpness-aware minimization
efficiently selects flatter minima late in training", ICLR 2025.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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
