"""AdamW."""

from __future__ import annotations

from typing import Any

import torch

from decentral.registry import NonNegative, Positive, plugin


@plugin("optimizer", elementwise=True, default_lr=1e-3, base="torch.optim.AdamW", identity={})
def adamw(
    params: Any,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """``torch.optim.AdamW``: Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""
    return torch.optim.AdamW(
        params, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )
