"""Batch-size schedules: functions ``(progress) -> samples per node`` of the step
that follows.

Under decentralized training the batch is that of each node; all nodes together take
it times their number. A schedule is followed before the run begins, so that the
steps of a budget of data are known; with such a budget ``progress.fraction`` goes
by samples, and ``progress.steps`` is 0.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Any, Literal

from annotated_types import Gt

from decentral.errors import ConfigError
from decentral.registry import ConfiguredPlugin, Count, Share, plugin
from decentral.schedules.progress import Progress
from decentral.units import Point

_START, _END = Point(0.0, "fraction"), Point(1.0, "fraction")
_WRITTEN = re.compile(r"\s*(\d+(?:\s*,\s*\d+)*)\s+at\s+([^,()]+(?:,[^,()]+)*)")


def common(
    *, scale_lr: Literal["none", "linear", "sqrt"] = "none", base: Count | None = None
) -> None:
    """Settings of every batch schedule: how the learning rate follows the batch.

    Args:
        scale_lr: Whether it grows with the batch over ``base``, with its root, or
            not.
        base: The batch that the rate is meant for; none: the first one.
    """


def shorthand(text: str) -> Mapping[str, Any] | None:
    """Read stages as people write them.

    >>> shorthand("640, 1280, 2560 at 25%, 50%")
    {'name': 'stages', 'sizes': ['640', '1280', '2560'], 'at': ['25%', '50%']}
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    sizes, at = ([part.strip() for part in group.split(",")] for group in found.groups())
    return {"name": "stages", "sizes": sizes, "at": at}


def rate_factor(batch: ConfiguredPlugin, size: int, first: int) -> float:
    """Return by what a batch of ``size`` multiplies the learning rate; ``first`` is
    the first.
    """
    # Without a base the rate is meant for the first batch, as in a run that stays
    # at it.
    ratio = size / (batch.common["base"] or first)
    return {"none": 1.0, "linear": ratio, "sqrt": sqrt(ratio)}[batch.common["scale_lr"]]


def share_to_go(progress: Progress, start: Point) -> float:
    """Return the share that is left of the part of the run that begins at
    ``start``, in [0, 1].
    """
    # How many steps there are follows from the batches, and is not known here yet.
    if start.unit == "steps" and progress.samples_total is not None:
        raise ConfigError(
            f"batch: with a budget of data, growth starts at a share of it, not at {start}; "
            "write 80%."
        )
    return 1.0 - progress.part(start, _END)


def power_growth(
    progress: Progress, start: Point, least: int, most: int, capacity: float
) -> int:
    """Return b ~ (time to go)^-(1 - 1 / (2 beta)), from ``least`` at ``start`` to
    ``most``.

    By steps, the time to go falls evenly; by samples it falls as fast as batches
    use them up, which integrates in closed form. With x = (time to go + 1) over its
    value at ``start``, b = least x^-a and the samples to go are in proportion to
    x^(1-a), apart from an offset.

    Args:
        progress: How far the run is.
        start: Where growth begins.
        least: Batch until then.
        most: Batch at the end.
        capacity: Exponent beta of the law.
    """
    if most <= least:
        raise ConfigError(
            f"batch: to = {most} must be above from = {least} for the batch to grow."
        )
    to_go, power = share_to_go(progress, start), 1 - 1 / (2 * capacity)
    # x at the end: where b = least x^-power has grown to ``most``.
    last = (least / most) ** (1 / power)
    if progress.samples_total is None:
        return round(least * (last + to_go * (1 - last)) ** -power)
    # The offset: samples to go do not end at 0 in this variable, since x ends at
    # ``last``.
    floor = last ** (1 - power)
    return round(least * (floor + to_go * (1 - floor)) ** (-power / (1 - power)))


@plugin("batch")
def constant(progress: Progress, *, size: Count = 32) -> int:
    """Use ``size`` samples per node and step.

    Args:
        progress: How far the run is.
        size: Samples per node and step.
    """
    return size


@plugin("batch")
def geometric(
    progress: Progress, *, from_: Count = 32, to: Count = 256, start: Point = _START
) -> int:
    """Multiply the batch by the same factor in equal parts of the run, from
    ``from`` to ``to``.

    Before ``start`` it is ``from``.

    Args:
        progress: How far the run is.
        from_: Samples per node and step at the start.
        to: Samples per node and step at the end.
        start: Where the batch begins to grow.
    """
    return round(from_ * (to / from_) ** (1 - share_to_go(progress, start)))


@plugin("batch", example="stages(sizes=[640, 1280, 1920, 2560], at=[25%, 50%, 75%])")
def stages(progress: Progress, *, sizes: tuple[Count, ...], at: tuple[Point, ...]) -> int:
    """Use each of ``sizes`` until the next of the points ``at``.

    Also written as ``640,1280,1920,2560 at 25%,50%,75%``.

    Args:
        progress: How far the run is.
        sizes: Sizes, one after the other.
        at: Points of the run at which the next one begins.
    """
    if len(sizes) != len(at) + 1:
        raise ConfigError(
            f"batch: {len(sizes)} stages need {max(0, len(sizes) - 1)} points between them, "
            f"{len(at)} were given."
        )
    return sizes[sum(progress.reached(point) for point in at)]


@plugin("batch")
def early_switch(
    progress: Progress,
    *,
    at: Point = Point(0.25, "fraction"),
    from_: Count = 32,
    to: Count = 256,
) -> int:
    """Use batches of ``from`` until ``at``, then of ``to``: the mirror of
    ``late_switch``.

    Fewer steps for the same data; on easy tasks the better one.

    Args:
        progress: How far the run is.
        at: Where the size changes.
        from_: Samples per node and step at the start.
        to: Samples per node and step at the end.
    """
    return to if progress.reached(at) else from_


@plugin("batch")
def late_switch(
    progress: Progress,
    *,
    at: Point = Point(0.75, "fraction"),
    from_: Count = 32,
    to: Count = 256,
) -> int:
    """Use batches of ``from`` until ``at``, then of ``to``: best on hard tasks.

    After the switch the loss catches up fast with that of a run whose batch was
    always large, and the steps before were many (Wang et al., "Fast Catch-Up, Late
    Switching", ICLR 2026).

    Args:
        progress: How far the run is.
        at: Where the size changes.
        from_: Samples per node and step at the start.
        to: Samples per node and step at the end.
    """
    return to if progress.reached(at) else from_


@plugin("batch")
def stable_growth(
    progress: Progress,
    *,
    start: Point = Point(0.8, "fraction"),
    from_: Count = 32,
    to: Count = 256,
    capacity: Annotated[float, Gt(1)] = 2.0,
) -> int:
    """Keep ``from`` until ``start``, then grow to ``to`` as (time to go)^-(1 - 1/(2
    capacity)).

    The shape of the best schedule for tasks with source s <= 1 - 1/capacity ("Fast
    Catch-Up, Late Switching", ICLR 2026). `decentral plan batch` computes ``start``
    and ``to``.

    Args:
        progress: How far the run is.
        start: Where the batch begins to grow.
        from_: Samples per node and step at the start.
        to: Samples per node and step at the end.
        capacity: Exponent beta of the law's capacity: eigenvalues j^-beta.
    """
    return power_growth(progress, start, from_, to, capacity)


@plugin("batch")
def easy_growth(
    progress: Progress,
    *,
    from_: Count = 32,
    to: Count = 256,
    capacity: Annotated[float, Gt(1)] = 2.0,
) -> int:
    """Grow from ``from`` to ``to`` over the whole run as (time to go)^-(1 - 1/(2
    capacity)).

    The shape of the best schedule for tasks with source s > 1 - 1/capacity.

    Args:
        progress: How far the run is.
        from_: Samples per node and step at the start.
        to: Samples per node and step at the end.
        capacity: Exponent beta of the law's capacity: eigenvalues j^-beta.
    """
    return power_growth(progress, _START, from_, to, capacity)


_SLACK = 1e-12


@plugin("batch", from_file=True, example="plan(sizes=[32, 64, 256], at=[0.9, 0.97])")
def plan(progress: Progress, *, sizes: tuple[Count, ...], at: tuple[Share, ...]) -> int:
    """Use each of ``sizes`` until the next share ``at`` of the data: the output of
    the planner.

    `decentral plan batch --out plan.yaml` writes a configuration that holds one,
    and ``plan(plan.yaml)`` reads it from there, with its budget of data.

    Args:
        progress: How far the run is.
        sizes: Sizes, one after the other.
        at: Shares of the data at which the next one begins.
    """
    if len(sizes) != len(at) + 1 or list(at) != sorted(at):
        raise ConfigError(
            "batch 'plan': sizes and the rising shares between them do not fit; "
            "let `decentral plan batch --out FILE` write them."
        )
    # A share that is reached but for rounding is reached: plans are written in
    # decimals.
    return sizes[bisect_right(at, progress.fraction + _SLACK)]
