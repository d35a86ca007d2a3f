"""Learning-rate schedules: functions ``(progress) -> factor`` of the peak rate
``lr``.

Every schedule accepts ``lr`` (the peak; the optimizer's default if unset) and
``warmup`` (a linear rise from 0 over that part of the run). ``progress.step``
counts the steps done before this one. What decays begins to after the warm-up, so
that the peak is reached: ``progress.warmup`` says how long it is, and
``progress.after_warmup`` which share is done of what follows.

So are schedulers of torch, by their dotted names
(``torch.optim.lr_scheduler.CosineAnnealingLR(T_max=100)``), and from Python as
functions of an optimizer. They are stepped once per optimizer step, from a dummy
optimizer at the peak rate, before the run; only the rate is taken.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, inf, nan, pi
from typing import TYPE_CHECKING, Any

from decentral.errors import ConfigError, nearest
from decentral.plugins import describe, is_users, label_of, wrong
from decentral.registry import (
    ConfiguredPlugin,
    Plugin,
    Positive,
    Share,
    build,
    plugin,
)
from decentral.schedules.progress import Progress
from decentral.signature import Setting, signature_settings
from decentral.traits import LearningRateTraits, traits_of
from decentral.units import Point

if TYPE_CHECKING:
    import torch

_START = Point(0.0, "fraction")


def common(*, lr: Positive | None = None, warmup: Point = _START) -> None:
    """Settings of every learning-rate schedule.

    Args:
        lr: Peak rate; none: that of the task's defaults.
        warmup: Length of the linear rise to the peak.
    """


@dataclass(frozen=True)
class LearningRate:
    """A learning-rate rule with its peak and warm-up.

    ``factors`` are those of a scheduler of torch, one per step, and ``note`` what
    is not taken of it.
    """

    rule: ConfiguredPlugin
    factors: tuple[float, ...] | None = None
    note: str = ""

    @staticmethod
    def make(value: object, default_lr: float, steps: int = 0) -> LearningRate:
        """Build from text, a mapping, a function, or a number (a constant rate).

        Args:
            value: The schedule as written.
            default_lr: The peak rate where it says none.
            steps: Length of the run, for which schedulers of torch are read.
        """
        if isinstance(value, int | float):
            value = {"name": "constant", "lr": value}
        rule = build("learning_rate", value)
        lr = rule.common["lr"] if rule.common["lr"] is not None else default_lr
        rule = ConfiguredPlugin(rule.plugin, rule.settings, {**rule.common, "lr": lr})
        if not _makes_scheduler(rule, steps):
            return LearningRate(rule)
        return LearningRate(rule, *_read_scheduler(rule, lr, steps))

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
        of the peak without a ratio, is where all ratios meet at the latest; the
        warm-up keeps its length.
        """
        warmup = self.rule.common["warmup"]
        length = warmup.in_steps(progress.steps) if warmup.value else 0.0
        # The first step has a rate above 0 already; one of 0 would be wasted.
        rise = min(1.0, (progress.step + 1) / length) if length >= 1 else 1.0
        if length >= 1:
            progress = replace(progress, warmup=length)
        if self.factors is None:
            factor = self.rule.function(progress)
        else:  # none but the last is asked for at the end of the run
            factor = self.factors[min(progress.step, len(self.factors) - 1)]
        if type(factor) is not float or not 0.0 <= factor < inf:
            factor = _factor(self.rule, factor, progress)
        if ratio != 1.0:
            meets = traits_of(self.rule, LearningRateTraits).meets
            left = meets(progress, self.rule.settings) if meets else 1.0
            ratio = 1 + (ratio - 1) * left
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


# --- schedulers of torch ----------------------------------------------------------

_TORCH = "torch.optim.lr_scheduler"


def resolve(name: str) -> Plugin | None:
    """Find a scheduler class of torch by its dotted name; its settings are its own
    parameters.
    """
    if not name.startswith("torch."):
        return None
    schedulers = importlib.import_module(_TORCH)
    kind: Any = getattr(schedulers, name.removeprefix(f"{_TORCH}."), None)
    if not _is_scheduler_class(kind):
        known = [
            f"{_TORCH}.{n}" for n, v in vars(schedulers).items() if _is_scheduler_class(v)
        ]
        raise ConfigError(
            f"learning_rate {name!r} is no scheduler of torch.{nearest(name, known)}"
        )
    traits, others = LearningRateTraits(scheduler=True), ("optimizer", "last_epoch")
    settings = {
        key: Setting(Any, one.default)
        for key, one in inspect.signature(kind).parameters.items()
        if key not in others
    }

    def make(optimizer: Any, /, **given: Any) -> Any:
        return kind(optimizer, **given)

    make.__doc__ = inspect.getdoc(kind)
    own = signature_settings(common)
    return Plugin("learning_rate", name, make, settings, traits, own)


def from_class(
    kind: type, given: Mapping[str, Any]
) -> tuple[Plugin | None, dict[str, Any]]:
    """Return a scheduler class of torch by its dotted name, if a file can hold its
    settings.

    Args:
        kind: The class.
        given: What a partial holds of its parameters.
    """
    plain = all(isinstance(v, bool | int | float | str | list) for v in given.values())
    named = kind.__module__ == _TORCH and plain
    return resolve(f"{_TORCH}.{kind.__name__}") if named else None, dict(given)


def _is_scheduler_class(kind: Any) -> bool:
    base = importlib.import_module(_TORCH).LRScheduler
    return inspect.isclass(kind) and issubclass(kind, base) and kind is not base


def _dummy(lr: float) -> torch.optim.Optimizer:
    """Return an optimizer of one number, with a momentum that schedulers may want
    to cycle.
    """
    import torch

    from decentral.private import defer_compiler

    defer_compiler()
    parameter = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([parameter], lr=lr, momentum=0.9)


def _makes_scheduler(rule: ConfiguredPlugin, steps: int) -> bool:
    """Whether a rule is a function of an optimizer, rather than of the progress.

    It says so by its trait. A user's that fails on a progress, and makes a
    scheduler for an optimizer, is one, too.
    """
    if traits_of(rule, LearningRateTraits).scheduler or not is_users(rule):
        return traits_of(rule, LearningRateTraits).scheduler
    try:
        rule.plugin.target(Progress(0, max(1, steps)), **rule.settings)
    except Exception:  # asked again in the run, if it is no such function
        try:
            made = rule.plugin.target(_dummy(1.0), **rule.settings)
        except Exception:
            return False
        return _is_scheduler_class(type(made))
    return False


def _read_scheduler(
    rule: ConfiguredPlugin, lr: float, steps: int
) -> tuple[tuple[float, ...], str]:
    """Return the factors of the peak rate by which a scheduler of torch trains
    every step.

    Args:
        rule: What makes it for an optimizer.
        lr: The peak rate.
        steps: Length of the run.
    """
    optimizer = _dummy(lr)
    group = optimizer.param_groups[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls what torch deprecates
        scheduler = rule(optimizer)
        _check_scheduler(rule, scheduler)
        rates, momenta = [float(group["lr"])], {float(group["momentum"])}
        for step in range(1, steps):
            optimizer.step()
            try:
                scheduler.step()
            except Exception as error:
                raise ConfigError(
                    f"{label_of(rule)} fails at step {step} of {steps} ({error}); it is stepped "
                    "once per optimizer step, and must last as long as the run."
                ) from error
            rates.append(float(group["lr"]))
            momenta.add(float(group["momentum"]))
    cycles = len(momenta) > 1
    note = f"learning_rate {rule.name}: only its rate is taken, and no momentum."
    return tuple(_factor(rule, rate / lr, Progress(step, steps))
                 for step, rate in enumerate(rates)), note if cycles else ""  # fmt: skip


def _check_scheduler(rule: ConfiguredPlugin, scheduler: Any) -> None:
    """Refuse what is no scheduler, or one that follows what is measured."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from decentral.private import inner_schedulers

    if not _is_scheduler_class(type(scheduler)):
        raise wrong(rule, describe(scheduler), "a torch.optim.lr_scheduler")
    inner = inner_schedulers(scheduler)
    if any(isinstance(one, ReduceLROnPlateau) for one in (scheduler, *inner)):
        raise ConfigError(
            f"{label_of(rule)}: ReduceLROnPlateau follows what is measured, and rates follow "
            "steps alone here; use wsd, or step(at=[60%, 80%]), or stop early by a callback."
        )


# --- the schedules ----------------------------------------------------------------


@plugin("learning_rate")
def constant(progress: Progress) -> float:
    """Keep the peak rate."""
    return 1.0


@plugin("learning_rate", cosine=True)
def cosine(progress: Progress, *, floor: Share = 0.0) -> float:
    """Decay to ``floor`` times the peak on half a cosine wave, which begins after
    the warm-up (Loshchilov & Hutter, 2017).

    Args:
        progress: How far the run is.
        floor: Last rate as a share of the peak.
    """
    return floor + (1 - floor) * (1 + cos(pi * progress.after_warmup)) / 2


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


def _before_the_end(progress: Progress, length: Point, times: int = 1) -> Point:
    """Return where the last ``times`` lengths of a run begin: not before its
    warm-up is over.
    """
    if length.unit == "fraction":
        begin = progress.fraction_at(progress.warmup) if progress.warmup else 0.0
        return Point(max(begin, 1 - times * length.value), "fraction")
    return Point(max(progress.warmup, progress.steps - times * length.value), "steps")


def _left_of_ratios(progress: Progress, settings: Mapping[str, Any]) -> float:
    """Return what is left of ratios by block: they fall to 1 in a line as long as
    the decay, and before it.
    """
    start, stop = (
        _before_the_end(progress, settings["decay"], times) for times in (2, 1)
    )
    return 1 - progress.part(start, stop)


@plugin("learning_rate", meets=_left_of_ratios)
def wsd(
    progress: Progress, *, decay: Point = Point(0.2, "fraction"), floor: Share = 0.0
) -> float:
    """Keep the peak rate, then decay linearly to ``floor`` over the last ``decay``
    of the run.

    Together with ``warmup`` this is warm-up-stable-decay (Hu et al., "MiniCPM",
    2024). Rates by block fall to the base rate before, in a line of the same
    length, and decay together: with a ``decay`` of a third they stay, fall and
    decay for a third each, as in the code of Wang et al., "The sharpness disparity
    principle", 2025.

    Args:
        progress: How far the run is.
        decay: Length of the decay.
        floor: Last rate as a share of the peak.
    """
    start = _before_the_end(progress, decay)
    return 1 - (1 - floor) * progress.part(start, Point(1.0, "fraction"))
