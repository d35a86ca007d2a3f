"""Adam in the eigenbases of Shampoo's preconditioner, for many matrices at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decentral.optim._matrix import Bucket, zeros

#: (first moment, gradient, second moment), all in the eigenbases -> direction there.
Direction = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Eigenbases by side: ``left`` [m, rows, rows], ``right`` [m, cols, cols]; sides may be missing.
Bases = dict[str, Tensor]


def soap_step(group: dict[str, Any], bucket: Bucket, direction: Direction) -> None:
    """Move the matrices of a bucket; at their first step only look at their gradients."""
    grads = bucket.gathered([member.grad for member in bucket.members])
    sizes = {"left": bucket.rows, "right": bucket.cols}
    sides = {side: size for side, size in sizes.items() if size <= group["max_dim"]}
    if "rotated_sq" not in bucket.members[0].state:
        _begin(group, bucket, grads, sides)
        return
    beta1, beta2 = group["betas"]
    step = int(bucket.members[0].state["step"]) - 1
    bases = {side: bucket.state(f"{side}_basis") for side in sides}
    rotated = rotate(grads, bases)
    first = bucket.state("exp_avg").lerp_(grads, 1 - beta1)
    second = bucket.state("rotated_sq").lerp_(rotated.square(), 1 - beta2)
    update = rotate_back(direction(rotate(first, bases), rotated, second), bases)
    rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    bucket.move(update, rate, group["lr"] * group["weight_decay"])
    bucket.store("exp_avg", first)
    statistics = _observe(group, bucket, grads, sides)
    if step % group["frequency"] == 0:
        for side in sides:
            second, basis = _refreshed(side, statistics[side], bases[side], second)
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
    return torch.bmm(matrices, bases["right"].transpose(1, 2)) if "right" in bases else matrices


def _begin(group: dict[str, Any], bucket: Bucket, grads: Tensor, sides: dict[str, int]) -> None:
    for member in bucket.members:
        zeros(member, "exp_avg")
        zeros(member, "rotated_sq")
        for side, size in sides.items():
            zeros(member, f"{side}_statistics", (size, size))
            zeros(member, f"{side}_basis", (size, size))
    for side, value in _observe(group, bucket, grads, sides).items():
        bucket.store(f"{side}_basis", _each(_eigenbasis, value))


def _observe(group: dict[str, Any], bucket: Bucket, grads: Tensor, sides: dict[str, int]) -> Bases:
    """Return the running means of G G^T (left) and G^T G (right), the gradients included."""
    beta = group["betas"][1] if group["statistics_beta"] is None else group["statistics_beta"]
    found: Bases = {}
    for side in sides:
        g = grads if side == "left" else grads.transpose(1, 2)
        key = f"{side}_statistics"
        found[side] = bucket.state(key).lerp_(torch.bmm(g, g.transpose(1, 2)), 1 - beta)
        bucket.store(key, found[side])
    return found


def _refreshed(
    side: str, statistics: Tensor, basis: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the second moment in descending order of eigenvalues, and a basis one QR nearer."""
    product = torch.bmm(statistics, basis)
    order = (basis * product).sum(1).argsort(dim=1, descending=True, stable=True)
    place = order.unsqueeze(2 if side == "left" else 1)
    second = second.take_along_dim(place, 1 if side == "left" else 2)
    power = product.take_along_dim(order.unsqueeze(1), 2)
    return second, _each(_orthogonal, power)


def _eigenbasis(statistics: Tensor) -> Tensor:
    """Return eigenvectors in descending order of eigenvalues."""
    # A row that is not finite would stop all; it is found sick at its next look-over.
    return torch.linalg.eigh(torch.nan_to_num(statistics))[1].flip(-1)


def _orthogonal(matrices: Tensor) -> Tensor:
    return torch.linalg.qr(matrices)[0]


def _each(decompose: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """Decompose every matrix, on a CPU in memory of its own.

    LAPACK takes them one by one anyway, and its last bits depend on where in memory a matrix lies:
    so in a batch on its neighbours, which would tie rows to each other.
    """
    wide = matrices.float() if matrices.dtype == torch.bfloat16 else matrices
    if matrices.is_cpu:
        found = torch.stack([decompose(matrix.clone()) for matrix in wide])
    else:
        found = decompose(wide)
    return found.to(matrices.dtype)
