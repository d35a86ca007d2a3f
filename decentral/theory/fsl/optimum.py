"""The best batch schedule for a budget of data: by water-filling, or with one switch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.theory.fsl.law import Law
from decentral.theory.fsl.stages import Stages, as_sizes

Floats = NDArray[np.float64]

#: Bins, logarithmic in the steps to go; numbers of steps tried at first, and in each refinement,
#: and their relative distance in the last one.
_BINS, _COARSE, _FINE, _PRECISION = 400, 48, 12, 1e-4
_BISECTIONS = 60
_SHARES = 4000


@dataclass(frozen=True)
class Optimum:
    """A schedule in whole batches that uses the budget exactly, and its predicted risk."""

    schedule: Stages
    risk: float


def optimal(law: Law, budget: int, least: int = 1, most: int | None = None) -> Optimum:
    """Return the schedule with the least predicted risk that uses ``budget`` samples.

    ``least`` and ``most`` bound the batch. For a fixed number of steps n, b(r) = sqrt(K(r) / mu)
    within the bounds, r being the time to go, is optimal (the problem is convex and separable); mu
    is bisected so that the budget is met, and n is searched for on refined grids.

    Args:
        law: The law of the loss.
        budget: Samples to use.
        least: Smallest batch.
        most: Largest batch; none: unbounded.
    """
    most = budget if most is None else min(most, budget)
    check_bounds(budget, least, most)
    low, high = np.log(max(1.0, budget / most)), np.log(budget / least)
    tried = np.linspace(low, high, _COARSE)
    while True:
        edges, sizes, risks = _filled(law, np.exp(tried), budget, least, most)
        best, step = int(np.argmin(risks)), tried[1] - tried[0]
        if step <= _PRECISION:
            break
        tried = np.linspace(max(low, tried[best] - step), min(high, tried[best] + step), _FINE)
    schedule = _whole(edges[best], sizes[best], budget, most)
    return Optimum(schedule, law.risk(schedule))


def check_bounds(budget: int, least: int, most: int) -> None:
    """Refuse bounds that leave no schedule.

    Args:
        budget: Samples to use.
        least: Smallest batch.
        most: Largest batch.
    """
    if least < 1:
        raise ConfigError(f"min = {least}: a batch has at least 1 sample.")
    if budget < least:
        raise ConfigError(
            f"budget = {budget:,}: that is below one batch of {least:,}; give at least as much."
        )
    if least > most:
        raise ConfigError(f"min = {least:,} is above max = {most:,}; exchange them.")


def _filled(
    law: Law, steps: Floats, budget: int, least: float, most: float
) -> tuple[Floats, Floats, Floats]:
    """Return edges in steps to go, batch sizes and risks, for several numbers of ``steps``."""
    start = np.minimum(1.0, steps / 2)[:, None]
    edges = start * (steps[:, None] / start) ** np.linspace(0, 1, _BINS)
    edges = np.concatenate([np.zeros_like(start), edges], axis=1)
    width, end = np.diff(edges, axis=1), law.lr * steps[:, None]
    weight = law.noise_weights(law.lr * edges, end)
    level = np.sqrt(weight / width)
    low = np.log(level.min(axis=1, keepdims=True) / most) - 1e-9
    high = np.log(level.max(axis=1, keepdims=True) / least) + 1e-9
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        used = (width * np.clip(level * np.exp(-middle), least, most)).sum(axis=1, keepdims=True)
        low, high = np.where(used > budget, middle, low), np.where(used > budget, high, middle)
    sizes = np.clip(level * np.exp(-high), least, most)
    return edges, sizes, law.signal(law.lr * steps) + (weight / sizes).sum(axis=1)


def _whole(edges: Floats, sizes: Floats, budget: int, most: int) -> Stages:
    """Return the schedule in whole steps and samples that lies closest."""
    steps = max(1, round(float(edges[-1])))
    to_go = steps - np.arange(steps) - 0.5
    centres = (edges[1:] + edges[:-1]) / 2
    smooth = np.exp(np.interp(np.log(to_go), np.log(centres), np.log(sizes)))
    return Stages.runs(as_sizes(smooth)).met(budget, most)


def two_stage(law: Law, budget: int, small: int, large: int) -> tuple[float, float]:
    """Return the best share of the data before one switch of the batch, and the predicted risk.

    0 means large batches from the start. Only the labels' noise counts.

    Args:
        law: The law of the loss.
        budget: Samples to use.
        small: Batch before the switch.
        large: Batch after it.
    """
    check_bounds(budget, small, large)
    after = budget * np.geomspace(min(1.0, large / budget), 1.0, _SHARES)
    late = law.lr * after / large
    end = law.lr * (budget - after) / small + late
    noise = (law.remembered(end) - law.remembered(late)) / small + law.remembered(late) / large
    risks = law.floor + law.signal(end) + law.lr * law.noise / 2 * noise
    best = int(np.argmin(risks))
    return 1 - float(after[best]) / budget, float(risks[best])
