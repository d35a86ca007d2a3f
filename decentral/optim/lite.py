"""LITE: bolder steps along the flat directions of the loss (Zhu et al., "LITE",
2026).

Which directions are flat follows from what the base optimizer knows anyway: small
singular values of Muon's momentum, small second moments of Adam and SOAP. On them
the step is multiplied by chi, and the current gradient counts beta2 instead of
beta1 times more beside the momentum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import cos, pi
from typing import Any, Literal

import torch
from torch import Tensor

from decentral.errors import ConfigError, nearest
from decentral.optim.base import FREE, LrInfo
from decentral.optim.blocks import RATIOS
from decentral.optim.matrix import MatrixOptimizer, Member, zeros

#: Multipliers of flat directions, and shares of directions that are sharp: as
#: shipped by the authors. Blocks left out, such as routers, keep 1 and 0, the base
#: optimizer. ``other`` are hidden matrices of no known block.
CHI: dict[str, float] = {
    "embedding": 4.0, "norm": 4.0, "qk": 2.0, "vo": 2.0, "qkv": 2.0, "ffn": 2.0,
    "experts": 2.0, "head": 1.0, "other": 2.0,
}  # fmt: skip
SHARP: dict[str, float] = {
    "embedding": 0.1, "norm": 0.1, "qk": 0.1, "vo": 0.1, "qkv": 0.1, "ffn": 0.1,
    "experts": 0.1, "head": 1.0, "other": 0.1,
}  # fmt: skip

Shape = Literal["auto", "cosine", "wsd"]

#: How thresholds follow their targets from step to step.
_UP, _DOWN = 1.05, 0.95
#: Below this share of sharp directions a matrix is the base optimizer's.
_LEAST_SHARE = 1e-6


def by_block(
    name: str, given: Mapping[str, float], shipped: Mapping[str, float]
) -> dict[str, Any]:
    """Return the shipped values with those given in their place.

    Args:
        name: Name of the setting, for messages.
        given: Values by block, or by a word that stands for several.
        shipped: Values of all blocks.
    """
    known = {*RATIOS, "other"}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"{name}: unknown block {key!r}.{nearest(key, known)} "
                f"Blocks: {', '.join(sorted(known))}."
            )
        least, most = (1.0, float("inf")) if name == "chi" else (0.0, 1.0)
        if not least <= value <= most:
            limits = "at least 1" if name == "chi" else "between 0 and 1"
            raise ConfigError(f"{name}: {key} = {value:g}: it must be {limits}.")
    return {**shipped, **given}


class LiteOptimizer(MatrixOptimizer):
    """What Muon-LITE and SOAP-LITE share: schedules, and Adam with a mask of flat
    coordinates.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        chi: Mapping[str, float],
        sharp: Mapping[str, float],
        **settings: Any,
    ) -> None:
        """Fill in the blocks that are not said; whoever drives may set ``course``,
        ``progress``.
        """
        super().__init__(
            params, lr,
            chi=by_block("chi", chi, CHI), sharp=by_block("sharp", sharp, SHARP),
            course=asdict(FREE), progress=0.0, **settings,
        )  # fmt: skip

    def bucket_key(self, member: Member) -> Any:
        """Keep blocks apart: each has its own chi and share of sharp directions."""
        return member.value.shape[-2:], member.block

    @staticmethod
    def flatness(
        group: dict[str, Any], member: Member, hidden: bool
    ) -> tuple[float, float]:
        """Return chi and the share of sharp directions of a parameter, now.

        Biases and other parameters of no block of their own, outside matrices, keep
        plain AdamW.

        Args:
            group: The parameter's group.
            member: The parameter and its state.
            hidden: Whether it is a hidden matrix.
        """
        plain = not hidden and member.block not in ("embedding", "norm", "head")
        block = (None if plain else member.block) or ("other" if hidden else "")
        chi, sharp = group["chi"].get(block, 1.0), group["sharp"].get(block, 0.0)
        return chi_now(group, chi, _progress(group, member), hidden), sharp

    @staticmethod
    def damping(group: dict[str, Any], member: Member) -> tuple[float, float]:
        """Return the extra weight of the gradient, beta1 on sharp and beta2 on flat
        directions.
        """
        return group["beta1"], beta2_now(group, _progress(group, member))

    def update_others(self, group: dict[str, Any], members: list[Member]) -> None:
        """Adam with a bolder step, and more decay, where the second moment is
        small.

        As the authors do, ``eps`` is added before the second moment is corrected
        for its start.
        """
        beta1, beta2 = group["betas"]
        for member in members:
            chi, sharp = self.flatness(group, member, hidden=False)
            first = zeros(member, "exp_avg").lerp_(member.grad, 1 - beta1)
            second = zeros(member, "exp_avg_sq").lerp_(member.grad.square(), 1 - beta2)
            dims = list(range(group["leading"], second.dim()))
            flat = (
                flat_mask(member, second, dims, sharp, group["smooth"])
                if chi != 1
                else None
            )
            bold = 1.0 if flat is None else 1 + (chi - 1) * flat
            step = int(member.state["step"])
            rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
            update = first / (second.sqrt() + group["eps"]) * bold
            # Decay first, from the weights before the step, as AdamW does.
            member.value.sub_(member.value * bold * (group["lr"] * group["weight_decay"]))
            member.value.add_(update, alpha=-rate)


def plain(sharp: float) -> bool:
    """Return whether matrices with that share of sharp directions keep the base
    optimizer.
    """
    return sharp <= _LEAST_SHARE


def flat_mask(
    member: Member, second: Tensor, dims: Sequence[int], sharp: float, smooth: float
) -> Tensor | None:
    """Return how flat each coordinate is, in [0, 1], from its second moment; None:
    nowhere.

    0 above u times the mean, 1 below l times, linear in between; u and l move so
    that the share ``sharp`` is above the upper and ``smooth`` more above the lower
    threshold.

    Args:
        member: A parameter and its state.
        second: Its second moment.
        dims: Dimensions that belong to one matrix.
        sharp: Share of directions that count as sharp.
        smooth: Width of the hysteresis, as a share of the directions.
    """
    if sharp >= 1.0:
        return None
    if sharp <= 0.0:
        return torch.ones_like(second)
    # One threshold for each node and expert, none shared between them.
    shape = [1 if place in dims else size for place, size in enumerate(second.shape)]
    upper = _threshold(member, "upper", 1.0, second, shape)
    lower = _threshold(member, "lower", 0.5, second, shape)
    mean = second.mean(list(dims), keepdim=True)
    high, low = upper * mean, lower * mean
    flat = 1 - ((second - low) / (high - low).clamp_min(1e-30)).clamp(0, 1)
    # Thresholds move after the mask is made: they act from the next step on.
    follow(upper, share(second > high, dims) > sharp)
    follow(lower, share(second > low, dims) > sharp + min(1 - sharp, smooth))
    # Kept apart, or the slope between the two would become a jump.
    torch.minimum(lower, 0.95 * upper, out=lower)
    return flat


def _threshold(
    member: Member, key: str, start: float, second: Tensor, shape: Sequence[int]
) -> Tensor:
    if key not in member.state:
        member.state[key] = second.new_full(tuple(shape), start)
    return member.state[key]


def share(above: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the share of coordinates for which something holds."""
    return above.to(torch.float32).mean(list(dims), keepdim=True)


def follow(threshold: Tensor, too_many: Tensor) -> Tensor:
    """Raise a threshold by 5 % where too many lie above it, lower it elsewhere, in
    place.
    """
    return threshold.mul_(torch.where(too_many, _UP, _DOWN).to(threshold.dtype))


# --- schedules --------------------------------------------------------------------


def _progress(group: dict[str, Any], member: Member) -> float:
    """Return the share of the run that is done: counted here, or as whoever drives
    says.
    """
    if group["total_steps"] is None:
        return float(group["progress"])
    # The counter includes the step under way.
    return min(1.0, (int(member.state["step"]) - 1) / group["total_steps"])


def _course(group: dict[str, Any]) -> LrInfo:
    """Return the course of the learning rate: as the user says, else as whoever
    drives does.
    """
    told = group["course"]
    said = {
        key: told[key] if group[key] is None else group[key]
        for key in ("warmup", "floor")
    }
    auto = group["schedule"] == "auto"
    return LrInfo(told["cosine"] if auto else group["schedule"] == "cosine", **said)


def _since_warmup(course: LrInfo, progress: float) -> float:
    """Return how far the run is past its warm-up, in [0, 1]; negative before."""
    return (progress - course.warmup) / max(1e-12, 1 - course.warmup)


def _ramp(group: dict[str, Any], course: LrInfo) -> float:
    """Return the share of the run after warm-up in which beta2, and chi under
    cosine, rise.
    """
    if group["flat_warmup"] is not None:
        return float(group["flat_warmup"])
    return 0.5 if course.cosine else 2 * course.warmup


def beta2_now(group: dict[str, Any], progress: float) -> float:
    """Return beta2: beta1 until the warm-up is over, then rising linearly, then
    constant.
    """
    course = _course(group)
    past, ramp = _since_warmup(course, progress), _ramp(group, course)
    risen = min(1.0, max(0.0, past) / ramp) if ramp > 0 else float(past >= 0)
    return group["beta1"] + risen * (group["beta2"] - group["beta1"])


def chi_now(group: dict[str, Any], chi: float, progress: float, hidden: bool) -> float:
    """Return chi: constant, or under cosine such that flat and sharp end at the
    same rate.

    Hidden matrices begin at 1; the others have f / s at all times, where s falls
    from 1 to the floor on a cosine, and f from chi.

    Args:
        group: The parameter's group.
        chi: Its value at the end.
        progress: Share of the run that is done.
        hidden: Whether the parameter is a hidden matrix.
    """
    course = _course(group)
    if not course.cosine:
        return chi
    past, ramp, floor = (
        max(0.0, _since_warmup(course, progress)),
        _ramp(group, course),
        course.floor,
    )
    wave = (1 + cos(pi * min(1.0, past))) / 2
    ordinary, bold = floor + (1 - floor) * wave, floor + (chi - floor) * wave
    falling = bold / ordinary if ordinary > 0 else chi
    if not hidden:
        return falling
    rising = 1 + (past / ramp if ramp > 0 else 1.0) * (chi - 1)
    return min(falling, rising)
