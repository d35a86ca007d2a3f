"""First-order optimizers: one number of state or two for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from decentral.registry import NonNegative, Positive, Share, plugin


@plugin(
    "optimizer",
    elementwise=True,
    default_lr=0.02,
    plain=lambda settings: settings["momentum"] == 0,
    base="torch.optim.SGD",
    identity={"momentum": 0.0, "weight_decay": 0.0},
)
def sgd(
    params: Any,
    *,
    momentum: Share = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 5e-4,
    dampening: Share = 0.0,
) -> torch.optim.Optimizer:
    """``torch.optim.SGD``: v <- momentum v + g + wd x; x <- x - lr v.

    Args:
        params: Parameters, named ones where names matter.
        momentum: Decay rate of the momentum.
        nesterov: Whether the step looks one gradient ahead.
        weight_decay: Weight decay, added to the gradient.
        dampening: Share of the gradient that the momentum leaves out.
    """
    return torch.optim.SGD(
        params,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        dampening=dampening,
    )


@plugin(
    "optimizer", elementwise=True, default_lr=1e-3, base="torch.optim.AdamW", identity={}
)
def adamw(
    params: Any,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """``torch.optim.AdamW``: Adam with decoupled weight decay (Loshchilov & Hutter,
    2019).

    Args:
        params: Parameters, named ones where names matter.
        betas: Decay rates of the mean and of the mean square of gradients.
        eps: Added to the root in the denominator of Adam's step.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        amsgrad: Whether the largest mean square so far is divided by.
    """
    return torch.optim.AdamW(
        params, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


@plugin("optimizer", "lion", elementwise=True, default_lr=1e-4)
class Lion(torch.optim.Optimizer):
    """Lion: a step of one size along the sign of the interpolated momentum.

    c = beta1 m + (1 - beta1) g; x <- (1 - lr decay) x - lr sign(c); m <- beta2 m +
    (1 - beta2) g (Chen et al., "Symbolic discovery of optimization algorithms",
    2023).

    Args:
        params: Parameters, named ones where names matter.
        lr: Learning rate.
        betas: Interpolation within a step, and decay rate of the momentum.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        *,
        betas: tuple[Share, Share] = (0.9, 0.99),
        weight_decay: NonNegative = 0.0,
    ) -> None:
        """Take parameters or groups of them."""
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                # Two rates: the step looks at the gradient more than the momentum
                # remembers of it.
                update = momentum.lerp(parameter.grad, 1 - beta1).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)
        return loss
