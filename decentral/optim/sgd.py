"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch

from decentral.registry import NonNegative, Share, plugin


@plugin(
    "optimizer",
    elementwise=True,
    default_lr=0.02,
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
    """``torch.optim.SGD``: v <- momentum v + g + wd x; x <- x - lr v."""
    return torch.optim.SGD(
        params,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        dampening=dampening,
    )
