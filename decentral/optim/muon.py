"""Muon: the momentum of matrices made orthogonal, and its LITE variant."""

from __future__ import annotations

from math import floor as whole
from typing import Any, Literal

import torch
from torch import Tensor

from decentral.optim.lite import CHI, SHARP, LiteOptimizer, Shape, follow, plain
from decentral.optim.matrix import (
    EXCLUDE,
    Bucket,
    Kind,
    MatrixOptimizer,
    Precision,
    match_rate,
    msign,
    zeros,
)
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
    """Muon: every hidden matrix moves along its momentum's matrix sign; AdamW for
    the rest.

    B <- momentum B + (1 - momentum) g; W <- W - rate msign(B). The rate is lr 0.2
    sqrt(max(rows, cols)), so that AdamW's learning rates fit; ``adjust: original``
    takes lr sqrt(max(1, rows / cols)). The filters of a convolution are a matrix
    [out, in height width]. ``exclude`` lists what is left to AdamW (``betas``,
    ``eps``): blocks, patterns of names, ``output``, the last matrix of a model
    whose names tell no head, and ``convolution``. ``decentral show blocks`` shows
    who gets what (Jordan, "Muon", 2024).

    Args:
        params: Parameters, named ones where names matter.
        lr: Learning rate.
        momentum: Decay rate of the momentum.
        nesterov: Whether the step looks one gradient ahead.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        steps: Newton-Schulz iterations.
        newton_schulz: Which polynomials: ``quintic`` or ``polar``.
        precision: Type of the iterations: that of the parameters, or a lower one.
        adjust: How the rate follows a matrix's shape: ``rms`` or ``original``.
        exclude: Blocks, patterns of names, ``output`` and ``convolution``: what is
            left to AdamW.
        betas: AdamW's decay rates for what is no hidden matrix.
        eps: Added to the root in the denominator of Adam's step.

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
            # A mean where Jordan adds up: the sign does not see the factor between
            # them.
            updates = [
                m.grad.lerp(b, theta)
                for m, b in zip(bucket.members, updates, strict=True)
            ]
        settings = group["steps"], group["newton_schulz"], group["precision"]
        direction = msign(bucket.gather(updates), *settings)
        lr, rows, cols = group["lr"], bucket.rows, bucket.cols
        # Of the parameter as it is: Jordan's factor for filters is that of their
        # height and width, mostly 1.
        height, width = bucket.members[0].parameter.shape[-2:]
        tall = max(1.0, height / width) ** 0.5
        rate = lr * tall if group["adjust"] == "original" else match_rate(lr, rows, cols)
        bucket.move(direction, rate, lr * group["weight_decay"])


@plugin(
    "optimizer",
    "muon_lite",
    stacked=True,
    default_lr=1e-3,
    rest="masked adam",
    mixes=("momentum", "exp_avg", "exp_avg_sq"),
)
class MuonLite(LiteOptimizer):
    """Muon-LITE: Muon with bolder, less damped steps along flat directions of every
    hidden matrix.

    D = msign(M) + beta1 msign(g) + (beta2_t - beta1) msign(g) Q; W <- W - rate (D +
    (chi_t - 1) D Q), with M Muon's momentum and Q the projector on all but the
    ``sharp`` share of its right singular directions. ``chi`` and ``sharp`` are by
    block. Embeddings, head and norms: Adam with a mask. chi_t and beta2_t follow
    the run's learning rate (``schedule``, ``warmup``, ``floor``) and rise during
    ``flat_warmup`` of what follows the warm-up (Zhu et al., "LITE", 2026).

    Its schedules need to know how long the run is: give ``total_steps``, or set the
    group setting ``progress`` (the share of the run that is done) before every
    step, as one sets ``lr``.

    Args:
        params: Parameters, named ones where names matter.
        lr: Learning rate.
        total_steps: Length of the run in steps; none: ``progress`` of the groups
            tells.
        momentum: Decay rate of the momentum.
        beta1: Weight of the gradient along sharp directions.
        beta2: Weight of the gradient along flat directions, in the end.
        chi: How much bolder flat directions move, in the end, by block.
        sharp: Share of directions that count as sharp, by block.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        steps: Newton-Schulz iterations.
        precision: Type of the iterations: that of the parameters, or a lower one.
        betas: AdamW's decay rates for what is no hidden matrix.
        eps: Added to the root in the denominator of Adam's step.
        smooth: Width of the hysteresis between sharp and flat, as a share of the
            directions.
        schedule: Shape that chi and beta2 follow; auto: that of the run's learning
            rate.
        warmup: Length of the learning rate's warm-up; none: that of the run.
        floor: Least rate as a share of the peak; none: that of the run.
        flat_warmup: Share of what follows the warm-up in which chi and beta2 rise.
        exclude: Blocks, patterns of names, ``output`` and ``convolution``: what is
            left to AdamW.

    >>> import torch
    >>> model = torch.nn.TransformerEncoderLayer(8, 2, 16)
    >>> optimizer = MuonLite(
    ...     model.named_parameters(), lr=1e-3, total_steps=100, warmup=0.1
    ... )
    >>> model(torch.ones(3, 4, 8)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        total_steps: int | None = None,
        *,
        momentum: Share = 0.95,
        beta1: float = -0.25,
        beta2: float = 1.0,
        chi: dict[str, float] = CHI,
        sharp: dict[str, float] = SHARP,
        weight_decay: NonNegative = 0.1,
        steps: Count = 6,
        precision: Precision = "same",
        betas: tuple[Share, Share] = (0.9, 0.99),
        eps: Positive = 1e-8,
        smooth: Share = 0.1,
        schedule: Shape = "auto",
        warmup: Share | None = None,
        floor: Share | None = None,
        flat_warmup: Share | None = None,
        exclude: tuple[str, ...] = EXCLUDE,
    ) -> None:
        """Take parameters with their names."""
        super().__init__(
            params, lr, chi=chi, sharp=sharp, schedule=schedule, warmup=warmup, floor=floor,
            flat_warmup=flat_warmup, total_steps=total_steps, exclude=exclude,
            momentum=momentum, beta1=beta1, beta2=beta2, weight_decay=weight_decay, steps=steps,
            precision=precision, betas=betas, eps=eps, smooth=smooth,
        )  # fmt: skip

    def update_matrices(self, group: dict[str, Any], bucket: Bucket) -> None:
        """Move every matrix: as Muon on sharp directions, bolder on flat ones."""
        theta, first = group["momentum"], bucket.members[0]
        updates = [
            # Nesterov's mean divided by theta: neither sign nor threshold sees the
            # scale.
            zeros(m, "momentum").lerp_(m.grad, 1 - theta) + m.grad * ((1 - theta) / theta)
            for m in bucket.members
        ]
        direction = self._sign(group, momentum := bucket.gather(updates))
        chi, sharp = self.flatness(group, first, hidden=True)
        scale = match_rate(1.0, bucket.rows, bucket.cols)
        lr, decay = group["lr"], group["weight_decay"]
        if not plain(sharp):
            isometry = self._isometry(group, bucket, momentum, direction, sharp)
            beta1, beta2 = self.damping(group, first)
            latest = self._sign(group, bucket.gather([m.grad for m in bucket.members]))
            direction = direction + beta1 * latest
            direction += (beta2 - beta1) * flat_part(latest, isometry)
            direction += (chi - 1) * flat_part(direction, isometry)
            weights = bucket.gather([m.value for m in bucket.members])
            # ``move`` multiplies by lr and scale; decay of flat directions is lr
            # chi decay.
            direction += ((chi - 1) * decay / scale) * flat_part(weights, isometry)
        bucket.move(direction, lr * scale, lr * decay)

    @staticmethod
    def _sign(group: dict[str, Any], matrices: Tensor) -> Tensor:
        return msign(matrices, group["steps"], "polar", group["precision"])

    def _isometry(
        self,
        group: dict[str, Any],
        bucket: Bucket,
        momentum: Tensor,
        sign: Tensor,
        sharp: float,
    ) -> Tensor:
        """Return P = X diag(1[a > 1]) Y^T for A = X diag(a) Y^T, the momentum over
        its threshold.

        No decomposition is needed: P = (msign(A) + msign(A - msign(A))) / 2. The
        threshold follows
        |P|^2, which is the number of sharp directions.
        """
        least = min(bucket.rows, bucket.cols)
        for member in bucket.members:
            if "threshold" not in member.state:
                # The singular values of a matrix of norm 1 if all were equal.
                zeros(member, "threshold", (1,)).fill_(least**-0.5)
        threshold = torch.cat(
            [m.state["threshold"].reshape(-1, 1, 1) for m in bucket.members]
        )
        norm = torch.linalg.vector_norm(momentum, dim=(1, 2), keepdim=True)
        scaled = momentum / (threshold * norm + 1e-9)
        isometry = (sign + self._sign(group, scaled - sign)) / 2
        # At least one direction stays sharp, and one flat.
        wanted = min(whole(sharp * least) + 1, least - 1)
        size = torch.linalg.vector_norm(isometry, dim=(1, 2), keepdim=True)
        # For the next step. No singular value of a matrix exceeds its norm.
        bucket.store("threshold", follow(threshold, size > wanted**0.5).clamp_(max=1.0))
        return isometry


def flat_part(matrices: Tensor, isometry: Tensor) -> Tensor:
    """Return X Q, where Q = I - P^T P projects on the flat directions of the
    inputs.
    """
    return matrices - torch.bmm(torch.bmm(matrices, isometry.transpose(1, 2)), isometry)
