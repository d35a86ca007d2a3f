"""The loss of every row and its gradient with respect to the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import cross_entropy

#: (outputs [n, B, ...], targets [n, B, ...]) -> (losses [n], d losses / d outputs)
Differentiated = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: The target that cross-entropy leaves out.
_IGNORED = -100


def differentiated(loss: Callable[[Tensor, Tensor], Tensor]) -> Differentiated:
    """Return the losses of all rows together with their gradients.

    ``torch.nn.functional.cross_entropy`` on classes has a kernel of its own; any other loss that
    averages over a batch goes through vmap and autograd.
    """
    mapped = vmap(cast(Any, loss))

    def by_autograd(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            losses: Tensor = mapped(leaf, targets)
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), grad

    def either(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        classes = outputs.dim() == 3 and targets.dim() == 2 and not targets.is_floating_point()
        return (softmax_entropy if classes else by_autograd)(outputs, targets)

    return either if loss is cross_entropy else by_autograd


def softmax_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropies [n] of outputs [n, B, C] and classes [n, B], and gradients."""
    kept = (targets != _IGNORED).to(outputs.dtype)
    share = (kept / kept.sum(1, keepdim=True)).unsqueeze(2)
    place = targets.clamp_min(0).unsqueeze(2)
    shifted = outputs - outputs.amax(2, keepdim=True)
    right = shifted.gather(2, place)
    grad = shifted.exp_()
    total = grad.sum(2, keepdim=True)
    losses = ((total.log() - right) * share).sum((1, 2))
    grad.div_(total).scatter_add_(2, place, torch.full_like(right, -1.0))
    return losses, grad.mul_(share)
