"""Muon."""

from __future__ import annotations

from typing import Any, Literal

from decentral.optim._matrix import EXCLUDE, Bucket, MatrixOptimizer, matched_rate, zeros
from decentral.optim._msign import Kind, Precision, msign
from decentral.registry import Count, NonNegative, Positive, Share, plugin


@plugin(
    "optimizer",
    "muon",
    stacked=True,
    default_lr=1e-3,
    base="torch.optim.AdamW",
    identity={"exclude": ["*"], "betas": (0.9, 0.999), "weight_decay": 0.01},
)
class Muon(MatrixOptimizer):
    """Muon: every hidden matrix moves along its momentum's matrix sign; AdamW for the rest.

    B <- momentum B + (1 - momentum) g; W <- W - rate msign(B). The rate is lr 0.2 sqrt(max(rows,
    cols)), so that AdamW's learning rates fit; ``adjust: original`` takes lr sqrt(max(1, rows /
    cols)). ``exclude`` lists blocks and patterns of names of the matrices left to AdamW (``betas``,
    ``eps``); ``decentral show blocks`` shows who gets what (Jordan, "Muon", 2024).

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> optimizer = Muon(model.named_parameters(), lr=1e-3, exclude=["1.*"])
    >>> model(torch.ones(3, 4)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: Share = 0.95,
        nesterov: bool = True,
        weight_decay: NonNegative = 0.1,
        steps: Count = 5,
        newton_schulz: Kind = "quintic",
        precision: Precision = "same",
        adjust: Literal["rms", "original"] = "rms",
        exclude: tuple[str, ...] = EXCLUDE,
        betas: tuple[Share, Share] = (0.9, 0.95),
        eps: Positive = 1e-8,
    ) -> None:
        """Take parameters, best with their names."""
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
            steps=steps, newton_schulz=newton_schulz, precision=precision, adjust=adjust,
            exclude=exclude, betas=betas, eps=eps,
        )  # fmt: skip

    def update_matrices(self, group: dict[str, Any], bucket: Bucket) -> None:
        """Move every matrix along the sign of its momentum."""
        theta = group["momentum"]
        updates = [zeros(m, "momentum").lerp_(m.grad, 1 - theta) for m in bucket.members]
        if group["nesterov"]:
            updates = [m.grad.lerp(b, theta) for m, b in zip(bucket.members, updates, strict=True)]
        settings = group["steps"], group["newton_schulz"], group["precision"]
        direction = msign(bucket.gathered(updates), *settings)
        lr, rows, cols = group["lr"], bucket.rows, bucket.cols
        tall = max(1.0, rows / cols) ** 0.5
        rate = lr * tall if group["adjust"] == "original" else matched_rate(lr, rows, cols)
        bucket.move(direction, rate, lr * group["weight_decay"])
