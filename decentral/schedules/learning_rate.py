"""Learning-rate schedules: functions ``(progress) -> factor`` of the peak rate
``lr``.

Every schedule accepts ``lr`` (the peak; the optimizer's default if unset) and
``warmup`` (a linear rise from 0 over that part of the run). ``progress.step``
counts the steps done before this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, inf, nan, pi
from typing import Any

from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, Positive, Share, build, plugin
from decentral.schedules.progress import Progress
from decentral.units import Point

_START = Point(0.0, "fraction")


def common(*, lr: Positive | None = None, warmup: Point = _START) -> None:
    """Settings of every learning-rate schedule.

    Args:
        lr: Peak rate; none: that of the task's defaults.
        warmup: Length of the linear rise to the peak.
    """


@dataclass(frozen=True)
class LearningRate:
    """A learning-rate rule with its peak and warm-up."""

    rule: ConfiguredPlugin

    @staticmethod
    def make(value: object, default_lr: float) -> LearningRate:
        """Build from text, a mapping, a function, or a number (a constant rate)."""
        if isinstance(value, int | float):
            value = {"name": "constant", "lr": value}
        rule = build("learning_rate", value)
        lr = rule.common["lr"] if rule.common["lr"] is not None else default_lr
        return LearningRate(
            ConfiguredPlugin(rule.plugin, rule.settings, {**rule.common, "lr": lr})
        )

    @property
    def floor(self) -> float:
        """The least rate as a share of the peak: what the schedule calls its floor,
        else 0.
        """
        return float(self.rule.settings.get("floor", 0.0))

    def warmup(self, steps: int) -> float:
        """Return the length of the warm-up in steps."""
        return self.rule.common["warmup"].in_steps(steps)

    def __call__(
        self, progress: Progress, ratio: float = 1.0, floor: float = 0.0
    ) -> float:
        """Return the learning rate of the step that follows ``progress``.

        With a ``ratio`` the peak is that many times as high, and ``floor``, a share
        of the peak without a ratio, is where all ratios meet; the warm-up keeps its
        length.
        """
        warmup = self.rule.common["warmup"]
        length = warmup.in_steps(progress.steps) if warmup.value else 0.0
        # The first step has a rate above 0 already; one of 0 would be wasted.
        rise = min(1.0, (progress.step + 1) / length) if length >= 1 else 1.0
        factor = self.rule.function(progress)
        if type(factor) is not float or not 0.0 <= factor < inf:
            factor = _factor(self.rule, factor, progress)
        if ratio != 1.0 or factor < floor:
            # The schedule stretched between the ratio and the floor, instead of 1
            # and the floor.
            factor = floor + (ratio - floor) * max(0.0, factor - floor) / (
                1 - floor or 1.0
            )
        return self.rule.common["lr"] * rise * factor


def _factor(rule: ConfiguredPlugin, factor: Any, progress: Progress) -> float:
    """Return a factor that is no float as one, if it is a number that a rate can
    be.
    """
    try:
        found = float(factor) if not isinstance(factor, str) else nan
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        found = nan
    if not 0.0 <= found < inf:
        said = f"{describe(factor)} at step {progress.step}"
        raise wrong(rule, said, "a finite factor of the peak rate, at least 0")
    return found


@plugin("learning_rate")
def constant(progress: Progress) -> float:
    """Keep the peak rate."""
    return 1.0


@plugin("learning_rate", cosine=True)
def cosine(progress: Progress, *, floor: Share = 0.0) -> float:
    """Decay to ``floor`` times the peak on half a cosine wave (Loshchilov & Hutter,
    2017).

    Args:
        progress: How far the run is.
        floor: Last rate as a share of the peak.
    """
    return floor + (1 - floor) * (1 + cos(pi * progress.fraction)) / 2


@plugin("learning_rate")
def step(
    progress: Progress,
    *,
    at: tuple[Point, ...] = (Point(0.5, "fraction"), Point(0.75, "fraction")),
    factor: Positive = 0.1,
) -> float:
    """Multiply the rate by ``factor`` at each of the points ``at``.

    Args:
        progress: How far the run is.
        at: Where the rate drops.
        factor: What it is multiplied by each time.
    """
    return factor ** sum(progress.reached(point) for point in at)


@plugin("learning_rate")
def wsd(
    progress: Progress, *, decay: Point = Point(0.2, "fraction"), floor: Share = 0.0
) -> float:
    """Keep the peak rate, then decay linearly to ``floor`` over the last ``decay``
    of the run.

    Together with ``warmup`` this is warm-up-stable-decay (Hu et al., "MiniCPM",
    2024).

    Args:
        progress: How far the run is.
        decay: Length of the decay.
        floor: Last rate as a share of the peak.
    """
    if decay.unit == "fraction":
        start = Point(1 - decay.value, "fraction")
    else:
        start = Point(max(0.0, progress.steps - decay.value), "steps")
    return 1 - (1 - floor) * progress.part(start, Point(1.0, "fraction"))
