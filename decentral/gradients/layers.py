"""All rows together, layer by layer: sequential models of known layers,
differentiated by hand.

Activations are [n, B, ...]. Linear layers are batched matrix products whose
gradients go straight into the gradient block. Every other layer runs natively on
[B, n C, ...], rows folded into channels: a convolution then has n groups, a
normalisation n times the channels. What one folded layer made the next one folds
for free, since it stays in that order in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from decentral.gradients.base import ROWS
from decentral.gradients.kernels import Kernel, Pull, Views
from decentral.layout import Layout
from decentral.pytree import Tree, tree_at


class LayerGradient:
    """Differentiates all rows of a block at once, layer by layer."""

    kind = "vmap"

    def __init__(
        self, kernels: list[Kernel], layout: Layout, loss: Any, at_once: int = ROWS
    ) -> None:
        """Run ``kernels`` (from ``kernels_of``) under a loss that averages over a
        batch.

        Rows are computed ``at_once``: their activations stay in the cache, and
        memory does not grow with n.
        """
        self.kernels, self.layout, self.at_once = kernels, layout, at_once
        self.loss = differentiate(loss)
        self.full = torch.float32
        self.bound: tuple[Tensor, Views, Tensor] | None = None
        self.parts: list[tuple[slice, Views, Views]] = []

    def __call__(self, rows: Tensor, integers: Views, batch: Any, out: Tensor) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        # Making the views takes longer than a step of a small model.
        if self.bound is None or any(
            map(operator.is_not, self.bound, (rows, integers, out))
        ):
            self._bind(rows, integers, out)
        losses: list[Tensor] = []
        with torch.no_grad():
            for some, values, grads in self.parts:
                targets = batch.targets
                one = isinstance(targets, Tensor)
                mine = targets[some] if one else tree_at(targets, some)
                losses.append(self._part(values, batch.inputs[some], mine, grads))
        return torch.cat(losses)

    def _bind(self, rows: Tensor, integers: Views, out: Tensor) -> None:
        """Make the views into the blocks, which hold as long as the blocks are the
        same.
        """
        self.bound = rows, integers, out
        self.full = rows.dtype
        self.parts = []
        for start in range(0, rows.shape[0], self.at_once):
            some = slice(start, start + self.at_once)
            whole = {k: v[some] for k, v in integers.items()}
            values = _values(self.layout, rows[some]) | whole
            self.parts.append((some, values, self.layout.views(out[some])))

    def _part(self, values: Views, inputs: Tensor, targets: Tree, grads: Views) -> Tensor:
        tape: list[Pull] = []
        x = inputs
        for kernel in self.kernels:
            x = kernel(values, x, tape)
        # Outputs may be in bfloat16; the loss and the gradients are as the rows
        # are.
        losses, dy = self.loss(x.to(self.full), targets)
        dy = dy.to(x.dtype)
        # Backward through the layers; the first one that learns passes nothing on.
        for pull in reversed(tape):
            dx = pull(dy, grads)
            dy = dy if dx is None else dx
        return losses


def layer_forward(
    kernels: list[Kernel], layout: Layout, own: bool = False
) -> Callable[[Tensor, Views, Tensor], Tensor]:
    """Return ``forward(rows, integers, inputs) -> outputs``: on the same inputs, or
    its ``own``.

    Args:
        kernels: One for every layer of the model, in order.
        layout: Where each parameter stands in a row.
        own: Whether every row has inputs of its own.
    """

    def forward(rows: Tensor, integers: Views, inputs: Tensor) -> Tensor:
        buffers = layout.views(rows.detach(), layout.buffers)
        values = layout.views(rows) | buffers | integers
        x = inputs if own else inputs.expand(rows.shape[0], *inputs.shape)
        for kernel in kernels:
            x = kernel(values, x, None)
        return x

    return forward


def _values(layout: Layout, rows: Tensor) -> Views:
    return layout.views(rows, layout.parameters + layout.buffers)


# --- the loss of every row --------------------------------------------------------

#: (outputs [n, B, ...], targets [n, B, ...]) -> (losses [n], d losses / d outputs)
Differentiated = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: The target that cross-entropy leaves out.
_IGNORED = -100


def differentiate(loss: Callable[[Tensor, Tensor], Tensor]) -> Differentiated:
    """Return the losses of all rows together with their gradients.

    ``torch.nn.functional.cross_entropy`` on classes has a kernel of its own; any
    other loss that averages over a batch goes through vmap and autograd.
    """
    mapped = vmap(cast(Any, loss))

    def by_autograd(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            losses: Tensor = mapped(leaf, targets)
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), grad

    def either(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # Of other shapes, such as sequences or soft targets, the kernel knows
        # nothing.
        classes = (
            outputs.dim() == 3 and targets.dim() == 2 and not targets.is_floating_point()
        )
        return (softmax_entropy if classes else by_autograd)(outputs, targets)

    return either if loss is F.cross_entropy else by_autograd


def softmax_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropies [n] of outputs [n, B, C] and classes [n, B], and
    gradients.
    """
    # As torch does: ignored targets count neither in the sum nor in the mean.
    kept = (targets != _IGNORED).to(outputs.dtype)
    share = (kept / kept.sum(1, keepdim=True)).unsqueeze(2)
    place = targets.clamp_min(0).unsqueeze(2)
    # Less the maximum, so that no exponential overflows.
    shifted = outputs - outputs.amax(2, keepdim=True)
    right = shifted.gather(2, place)
    grad = shifted.exp_()
    total = grad.sum(2, keepdim=True)
    losses = ((total.log() - right) * share).sum((1, 2))
    grad.div_(total).scatter_add_(2, place, torch.full_like(right, -1.0))
    return losses, grad.mul_(share)
