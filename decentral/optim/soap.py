"""SOAP."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from decentral.optim._matrix import EXCLUDE, Bucket, MatrixOptimizer, Member
from decentral.optim._soap import soap_step
from decentral.registry import Count, NonNegative, Positive, Share, plugin


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
    """SOAP: Adam in the eigenbases of Shampoo's preconditioner; AdamW for what is no hidden matrix.

    L, R <- running means of g g^T and g^T g (``statistics_beta``, else the second of ``betas``),
    whose eigenbases are followed by one QR step every ``frequency`` steps; sides longer than
    ``max_dim`` are not rotated. The first step only looks. ``exclude`` is as in ``muon`` (Vyas et
    al., "SOAP", 2024). Decay comes before the step, as in AdamW.
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
