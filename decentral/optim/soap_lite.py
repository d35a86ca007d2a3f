"""LITE on top of SOAP, by analogy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from decentral.optim._lite import CHI, SHARP, LiteOptimizer, Shape, flat_mask, plain
from decentral.optim._matrix import EXCLUDE, Bucket, Member
from decentral.optim._soap import soap_step
from decentral.registry import Count, NonNegative, Positive, Share, plugin


@plugin(
    "optimizer",
    "soap_lite",
    stacked=True,
    default_lr=3e-3,
    rest="masked adam",
    mixes=("exp_avg", "exp_avg_sq"),
)
class SoapLite(LiteOptimizer):
    """Our analogue of SOAP-LITE, not a reproduction: SOAP with bolder steps where it sees flatness.

    In SOAP's eigenbases a coordinate is flat where its second moment v is small (all but the
    ``sharp`` share of them): u = chi_t (m + beta2_t g) / sqrt(v) there, (m + beta1 g) / sqrt(v)
    elsewhere. Schedules, blocks and what is no hidden matrix are as in ``muon_lite`` (the idea: Zhu
    et al., "LITE", 2026; its SOAP variant has no published code).
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
        """Move every matrix by Adam in its eigenbases, bolder where it is flat there."""
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
    def _flat(group: dict[str, Any], bucket: Bucket, second: Tensor, sharp: float) -> Tensor | None:
        masks: list[Tensor] = []
        for member, part in zip(bucket.members, bucket.split(second), strict=True):
            own = part.reshape(member.value.shape)
            dims = own.dim() - 2, own.dim() - 1
            mask = flat_mask(member, own, dims, sharp, group["smooth"])
            if mask is None:
                return None
            masks.append(mask)
        return bucket.gathered(masks)
