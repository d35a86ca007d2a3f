"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, and its LITE variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decentral.optim.lite import CHI, SHARP, LiteOptimizer, Shape, flat_mask, plain
from decentral.optim.matrix import EXCLUDE, Bucket, MatrixOptimizer, Member, zeros
from decentral.registry import Count, NonNegative, Positive, Share, plugin

#: (first moment, gradient, second moment), all in the eigenbases -> direction
#: there.
Direction = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Eigenbases by side: ``left`` [m, rows, rows], ``right`` [m, cols, cols]; sides
#: may be missing.
Bases = dict[str, Tensor]


def soap_step(group: dict[str, Any], bucket: Bucket, direction: Direction) -> None:
    """Move the matrices of a bucket; at their first step only look at their
    gradients.

    Args:
        group: The group of the matrices.
        bucket: Matrices of one shape, stacked.
        direction: Gives the step within the eigenbases.
    """
    grads = bucket.gather([member.grad for member in bucket.members])
    sizes = {"left": bucket.rows, "right": bucket.cols}
    sides = {side: size for side, size in sizes.items() if size <= group["max_dim"]}
    if "rotated_sq" not in bucket.members[0].state:
        _begin(group, bucket, grads, sides)
        return
    beta1, beta2 = group["betas"]
    # The first step only looked, and does not count.
    step = int(bucket.members[0].state["step"]) - 1
    bases = {side: bucket.state(f"{side}_basis") for side in sides}
    rotated = rotate(grads, bases)
    first = bucket.state("exp_avg").lerp_(grads, 1 - beta1)
    second = bucket.state("rotated_sq").lerp_(rotated.square(), 1 - beta2)
    update = rotate_back(direction(rotate(first, bases), rotated, second), bases)
    # Both corrections of the start in one number, as the authors have it: eps is
    # added to the uncorrected root.
    rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    bucket.move(update, rate, group["lr"] * group["weight_decay"])
    bucket.store("exp_avg", first)
    # After the move: this gradient was rotated by bases that had not seen it.
    statistics = _observe(group, bucket, grads, sides)
    if step % group["frequency"] == 0:
        for side in sides:
            second, basis = _refresh(side, statistics[side], bases[side], second)
            bucket.store(f"{side}_basis", basis)
    bucket.store("rotated_sq", second)


def rotate(matrices: Tensor, bases: Bases) -> Tensor:
    """Return L^T X R for each matrix X."""
    if "left" in bases:
        matrices = torch.bmm(bases["left"].transpose(1, 2), matrices)
    return torch.bmm(matrices, bases["right"]) if "right" in bases else matrices


def rotate_back(matrices: Tensor, bases: Bases) -> Tensor:
    """Return L X R^T for each matrix X."""
    if "left" in bases:
        matrices = torch.bmm(bases["left"], matrices)
    return (
        torch.bmm(matrices, bases["right"].transpose(1, 2))
        if "right" in bases
        else matrices
    )


def _begin(
    group: dict[str, Any], bucket: Bucket, grads: Tensor, sides: dict[str, int]
) -> None:
    for member in bucket.members:
        zeros(member, "exp_avg")
        zeros(member, "rotated_sq")
        for side, size in sides.items():
            zeros(member, f"{side}_statistics", (size, size))
            zeros(member, f"{side}_basis", (size, size))
    # From a single gradient, after which the bases only follow.
    for side, value in _observe(group, bucket, grads, sides).items():
        bucket.store(f"{side}_basis", _each(_eigenbasis, value))


def _observe(
    group: dict[str, Any], bucket: Bucket, grads: Tensor, sides: dict[str, int]
) -> Bases:
    """Return the running means of G G^T (left) and G^T G (right), the gradients
    included.
    """
    beta = (
        group["betas"][1]
        if group["statistics_beta"] is None
        else group["statistics_beta"]
    )
    found: Bases = {}
    for side in sides:
        g = grads if side == "left" else grads.transpose(1, 2)
        key = f"{side}_statistics"
        found[side] = bucket.state(key).lerp_(torch.bmm(g, g.transpose(1, 2)), 1 - beta)
        bucket.store(key, found[side])
    return found


def _refresh(
    side: str, statistics: Tensor, basis: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the second moment in descending order of eigenvalues, and a basis one
    QR nearer.
    """
    product = torch.bmm(statistics, basis)
    # The diagonal of Q^T S Q: estimates of the eigenvalues.
    order = (basis * product).sum(1).argsort(dim=1, descending=True, stable=True)
    place = order.unsqueeze(2 if side == "left" else 1)
    # The second moment belongs to the directions: it is permuted as the basis is.
    second = second.take_along_dim(place, 1 if side == "left" else 2)
    power = product.take_along_dim(order.unsqueeze(1), 2)
    # QR of S Q: one step of the power iteration for all eigenvectors together.
    return second, _each(_orthogonal, power)


def _eigenbasis(statistics: Tensor) -> Tensor:
    """Return eigenvectors in descending order of eigenvalues."""
    # A row that is not finite would stop all; it is quarantined at its next
    # look-over.
    return torch.linalg.eigh(torch.nan_to_num(statistics))[1].flip(-1)


def _orthogonal(matrices: Tensor) -> Tensor:
    return torch.linalg.qr(matrices)[0]


def _each(decompose: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """Decompose every matrix, on a CPU in memory of its own.

    LAPACK takes them one by one anyway, and its last bits depend on where in memory
    a matrix lies: so in a batch on its neighbours, which would tie rows to each
    other.
    """
    wide = matrices.float() if matrices.dtype == torch.bfloat16 else matrices
    if matrices.is_cpu:
        found = torch.stack([decompose(matrix.clone()) for matrix in wide])
    else:
        found = decompose(wide)
    return found.to(matrices.dtype)


@plugin(
    "optimizer",
    "soap",
    stacked=True,
    default_lr=3e-3,
    mixes=("exp_avg", "exp_avg_sq"),  # the rest is in bases that differ from node to node
    base="torch.optim.AdamW",
    identity={"exclude": ["*"], "betas": (0.9, 0.999)},
)
class Soap(MatrixOptimizer):
    """SOAP: Adam in the eigenbases of Shampoo's preconditioner; AdamW for what is
    no hidden matrix.

    L, R <- running means of g g^T and g^T g (``statistics_beta``, else the second
    of ``betas``), whose eigenbases are followed by one QR step every ``frequency``
    steps; sides longer than ``max_dim`` are not rotated. The first step only looks.
    ``exclude`` is as in ``muon`` (Vyas et al., "SOAP", 2024). Decay comes before
    the step, as in AdamW.

    Args:
        params: Parameters, named ones where names matter.
        lr: Learning rate.
        betas: Decay rates of the mean and of the mean square of gradients.
        statistics_beta: Decay rate of L and R; none: the second of ``betas``.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        frequency: Steps between two updates of the eigenbases.
        max_dim: Longest side that is rotated.
        eps: Added to the root in the denominator of Adam's step.
        exclude: Blocks, patterns of names, ``output`` and ``convolution``: what is
            left to AdamW.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        *,
        betas: tuple[Share, Share] = (0.95, 0.95),
        statistics_beta: Share | None = None,
        weight_decay: NonNegative = 0.01,
        frequency: Count = 10,
        max_dim: Count = 10_000,
        eps: Positive = 1e-8,
        exclude: tuple[str, ...] = EXCLUDE,
    ) -> None:
        """Take parameters, best with their names."""
        super().__init__(
            params, lr, exclude=exclude, betas=betas, statistics_beta=statistics_beta,
            weight_decay=weight_decay, frequency=frequency, max_dim=max_dim, eps=eps,
        )  # fmt: skip

    def bucket_key(self, member: Member) -> Any:
        """Keep matrices apart that have not begun yet."""
        return member.value.shape[-2:], "rotated_sq" in member.state

    def update_matrices(self, group: dict[str, Any], bucket: Bucket) -> None:
        """Move every matrix by Adam in its eigenbases."""

        def adam(first: Tensor, grad: Tensor, second: Tensor) -> Tensor:
            return first / (second.sqrt() + group["eps"])

        soap_step(group, bucket, adam)


@plugin(
    "optimizer",
    "soap_lite",
    stacked=True,
    default_lr=3e-3,
    rest="masked adam",
    mixes=("exp_avg", "exp_avg_sq"),
)
class SoapLite(LiteOptimizer):
    """Our analogue of SOAP-LITE, not a reproduction: SOAP with bolder steps where
    it sees flatness.

    In SOAP's eigenbases a coordinate is flat where its second moment v is small
    (all but the ``sharp`` share of them): u = chi_t (m + beta2_t g) / sqrt(v)
    there, (m + beta1 g) / sqrt(v) elsewhere. Schedules, blocks and what is no
    hidden matrix are as in ``muon_lite`` (the idea: Zhu et al., "LITE", 2026; its
    SOAP variant has no published code).

    Args:
        params: Parameters, named ones where names matter.
        lr: Learning rate.
        total_steps: Length of the run in steps; none: ``progress`` of the groups
            tells.
        beta1: Weight of the gradient along sharp directions.
        beta2: Weight of the gradient along flat directions, in the end.
        chi: How much bolder flat directions move, in the end, by block.
        sharp: Share of directions that count as sharp, by block.
        betas: Decay rates of the mean and of the mean square of gradients.
        statistics_beta: Decay rate of L and R; none: the second of ``betas``.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        frequency: Steps between two updates of the eigenbases.
        max_dim: Longest side that is rotated.
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
    """

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        total_steps: int | None = None,
        *,
        beta1: float = 0.0,
        beta2: float = 1.0,
        chi: dict[str, float] = CHI,
        sharp: dict[str, float] = SHARP,
        betas: tuple[Share, Share] = (0.95, 0.95),
        statistics_beta: Share | None = None,
        weight_decay: NonNegative = 0.01,
        frequency: Count = 10,
        max_dim: Count = 10_000,
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
            beta1=beta1, beta2=beta2, betas=betas, statistics_beta=statistics_beta,
            weight_decay=weight_decay, frequency=frequency, max_dim=max_dim, eps=eps, smooth=smooth,
        )  # fmt: skip

    def bucket_key(self, member: Member) -> Any:
        """Keep blocks apart, and matrices that have not begun yet."""
        return *super().bucket_key(member), "rotated_sq" in member.state

    def update_matrices(self, group: dict[str, Any], bucket: Bucket) -> None:
        """Move every matrix by Adam in its eigenbases, bolder where it is flat
        there.
        """
        chi, sharp = self.flatness(group, bucket.members[0], hidden=True)
        beta1, beta2 = self.damping(group, bucket.members[0])
        alpha = 1 - group["betas"][0]

        def bold(first: Tensor, grad: Tensor, second: Tensor) -> Tensor:
            scale = second.sqrt() + group["eps"]
            flat = None if plain(sharp) else self._flat(group, bucket, second, sharp)
            if flat is None:
                return first / scale
            # The running mean is alpha times the sum that the algorithm calls m.
            damped = first + alpha * (beta1 + (beta2 - beta1) * flat) * grad
            return damped / scale * (1 + (chi - 1) * flat)

        soap_step(group, bucket, bold)

    @staticmethod
    def _flat(
        group: dict[str, Any], bucket: Bucket, second: Tensor, sharp: float
    ) -> Tensor | None:
        masks: list[Tensor] = []
        for member, part in zip(bucket.members, bucket.split(second), strict=True):
            own = part.reshape(member.value.shape)
            dims = own.dim() - 2, own.dim() - 1
            mask = flat_mask(member, own, dims, sharp, group["smooth"])
            if mask is None:
                return None
            masks.append(mask)
        return bucket.gather(masks)
