"""The shape in which the best batch schedules grow."""

from __future__ import annotations

from decentral.errors import ConfigError
from decentral.schedules import Progress
from decentral.units import Point

_END = Point(1.0, "fraction")


def share_to_go(progress: Progress, start: Point) -> float:
    """Return the share that is left of the part of the run that begins at ``start``, in [0, 1]."""
    if start.unit == "steps" and progress.samples_total is not None:
        raise ConfigError(
            f"batch: with a budget of data, growth starts at a share of it, not at {start}; "
            "write 80%."
        )
    return 1.0 - progress.part(start, _END)


def power_growth(progress: Progress, start: Point, least: int, most: int, capacity: float) -> int:
    """Return b ~ (time to go)^-(1 - 1 / (2 beta)), from ``least`` at ``start`` to ``most``.

    By steps, the time to go falls evenly; by samples it falls as fast as batches use them up, which
    integrates in closed form. With x = (time to go + 1) over its value at ``start``, b = least x^-a
    and the samples to go are in proportion to x^(1-a), apart from an offset.
    """
    if most <= least:
        raise ConfigError(f"batch: to = {most} must be above from = {least} for the batch to grow.")
    to_go, power = share_to_go(progress, start), 1 - 1 / (2 * capacity)
    last = (least / most) ** (1 / power)
    if progress.samples_total is None:
        return round(least * (last + to_go * (1 - last)) ** -power)
    floor = last ** (1 - power)
    return round(least * (floor + to_go * (1 - floor)) ** (-power / (1 - power)))
