"""First-order optimizers: one number of state or two for each parameter; and
GradPower, which raises gradients to a power before any optimizer sees them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from decentral.errors import ConfigError
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


#: Added to |g|, as the authors do; a gradient of exactly 0 stays 0.
_EPS = 1e-8


#: Powers that torch takes by multiplication or by a square root.
_SIMPLE = (0.5, 2.0, 3.0)


def power_(grad: Tensor, p: float) -> Tensor:
    """Replace a gradient by sign(g) (|g| + 1e-8)^p, in place; p = 1 leaves it
    alone.
    """
    if p == 1.0:
        return grad
    # Away from 0, where powers below 1 have an infinite slope.
    size = _raise_(grad.abs().add_(_EPS), p)
    return grad.sign_().mul_(size)


def _raise_(size: Tensor, p: float) -> Tensor:
    """Raise positive numbers to a power, in place.

    With wide registers numpy's exp2(p log2 x) is four times as fast as torch's
    power, and as right to 2e-6.
    """
    plain = (
        size.dtype == torch.float32
        and size.device.type == "cpu"
        and not size.requires_grad
    )
    if not plain or p in _SIMPLE or not _wide():
        return size.pow_(p)
    numbers = size.numpy()
    with np.errstate(over="ignore"):
        np.log2(numbers, out=numbers)
        numbers *= np.float32(p)
        np.exp2(numbers, out=numbers)
    return size


@cache
def _wide() -> bool:
    """Return whether numpy's logarithms work on 16 numbers at once."""
    return sys.platform == "linux" and torch.backends.cpu.get_cpu_capability() == "AVX512"


def grad_power(optimizer: torch.optim.Optimizer, p: float = 1.2) -> RemovableHandle:
    """Let any optimizer see sign(g) |g|^p instead of the gradient g.

    (Wang et al., "GradPower", 2025.)

    A hook before each step, on all parameters; with AdamW this is AdamPower, with
    Muon MuonPower. Clip before: the order is average, clip, power, step. Like
    clipping it changes ``.grad`` in place, which costs no memory: after the step
    the gradient is spent, as before ``zero_grad``. A closure given to ``step`` is
    followed by the power. Decoupled weight decay is not touched. Returns a handle;
    its ``remove()`` ends it.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0)
    >>> hook = grad_power(optimizer, p=2.0)
    >>> weight.grad = torch.tensor([-3.0, 0.5])
    >>> optimizer.step()
    >>> weight.data
    tensor([ 9.0000, -0.2500])
    """
    if not p > 0:
        raise ConfigError(
            f"grad_power {p:g}: the power must be above 0; 1 changes nothing."
        )

    def apply() -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    power_(parameter.grad, p)

    def hook(
        _: torch.optim.Optimizer, args: tuple[Any, ...], settings: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = settings.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            apply()
            return None
        # With a closure the gradient is not there before the step.
        return args[:1], {**settings, "closure": _follow(closure, apply)}

    return optimizer.register_step_pre_hook(hook)


def _follow(closure: Callable[[], Any], apply: Callable[[], None]) -> Callable[[], Any]:
    def both() -> Any:
        loss = closure()
        apply()
        return loss

    return both
