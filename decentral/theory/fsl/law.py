"""The functional scaling law, and the schedule that is best by it.

risk = floor + drift + the noise that is still remembered. With intrinsic time t,
the sum of learning rates, and batch B(t):

    risk(T) = L0 + e(T) + int_0^T K(T - t) lr / B(t) [e(t) + noise / 2] dt
    e(t) = g (2 t + a)^-s,    K(t) = h (2 t + c)^-p,    p = 2 - 1 / beta

The best schedule for a budget of data is computed by water-filling, or with one
switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gamma

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.theory.fsl.model import PowerLaw, Stages, as_sizes

Floats = NDArray[np.float64]

#: Points of the quadrature, logarithmic in the time since the start and in that to
#: the end.
_POINTS = 300


@dataclass(frozen=True)
class Law:
    """A law with its constants: those of a power-law task, or fitted to runs."""

    source: float  # s
    capacity: float  # beta
    noise: float
    lr: float
    drift: tuple[float, float]  # g, a
    memory: tuple[float, float]  # h, c
    floor: float = 0.0  # L0
    multiplicative: bool = (
        True  # whether the risk itself makes noise, e(t) in the integral
    )

    @staticmethod
    def of(task: PowerLaw, *, finite_step: bool = True) -> Law:
        """Return the law of a power-law task, with no fitted constant.

        The gains are those of large times; ``a`` makes e(0) the risk at the start,
        ``c`` makes the integral of K what it is: 1/2 sum_j lambda_j / (1 - lr
        lambda_j / 2) for steps of finite size, 1/2 sum_j lambda_j in continuous
        time.
        """
        from scipy.special import zeta

        s, beta = task.source, task.capacity
        p = 2 - 1 / beta
        drift, memory = gamma(s) / (2 * beta), gamma(p) / beta
        total = float(zeta(beta)) / 2
        if finite_step:
            variances = np.arange(1, 2049, dtype=np.float64) ** -beta
            total += 0.5 * float(
                (variances / (1 - task.lr * variances / 2) - variances).sum()
            )
        offset = (2 * drift / float(zeta(1 + s * beta))) ** (1 / s)
        forget = (memory / (2 * (p - 1) * total)) ** (1 / (p - 1))
        return Law(s, beta, task.noise, task.lr, (drift, offset), (memory, forget))

    @property
    def exponent(self) -> float:
        """The exponent of forgetting, p = 2 - 1 / beta."""
        return 2 - 1 / self.capacity

    @property
    def threshold(self) -> float:
        """The source above which a task is easy, 1 - 1/beta."""
        return 1 - 1 / self.capacity

    @property
    def easy(self) -> bool:
        """Whether the batch should grow from the start, rather than late."""
        return self.source > self.threshold

    def without_own_noise(self) -> Law:
        """Return the law in which only the labels make noise."""
        return replace(self, multiplicative=False)

    def signal(self, time: Floats | float) -> Floats:
        """Return the drift e(t)."""
        gain, offset = self.drift
        return gain * (2 * np.asarray(time, dtype=np.float64) + offset) ** -self.source

    def noise_memory(self, time: Floats | float) -> Floats:
        """Return int_0^t K, the noise of unit strength that is remembered for at
        most t.
        """
        gain, offset = self.memory
        power = 1 - self.exponent
        later = (2 * np.asarray(time, dtype=np.float64) + offset) ** power
        return gain / (2 * -power) * (offset**power - later)

    def noise_weights(self, to_go: Floats, end: Floats | float) -> Floats:
        """Return what noise in [to_go[i], to_go[i + 1]] before ``end`` adds at
        batch size 1.

        ``to_go`` and ``end`` are intrinsic times; the last axis of ``to_go`` holds
        edges.
        """
        kernel = np.diff(self.noise_memory(to_go), axis=-1)
        strength: Floats | float = self.noise / 2
        if self.multiplicative:
            # The drift hardly changes within an interval of the grid, the kernel is
            # exact.
            middle = (to_go[..., 1:] + to_go[..., :-1]) / 2
            strength = strength + self.signal(np.maximum(end - middle, 0.0))
        return self.lr * kernel * strength

    def risk(self, stages: Stages) -> float:
        """Return the risk at the end of a schedule."""
        end = self.lr * stages.steps
        starts = self.lr * np.concatenate([[0], np.cumsum(stages.counts)])
        grid = _grid(end, min(self.lr, end) / 4)
        edges = np.unique(np.concatenate([end - starts, grid, end - grid]).clip(0.0, end))
        weights = self.noise_weights(edges, end)
        middle = end - (edges[1:] + edges[:-1]) / 2
        place = np.searchsorted(starts, middle, side="right") - 1
        sizes = stages.sizes[np.clip(place, 0, len(stages.sizes) - 1)]
        return self.floor + float(self.signal(end)) + float((weights / sizes).sum())

    def curve(self, stages: Stages, at: list[int]) -> Floats:
        """Return the risk after each of ``at`` steps of a schedule."""
        return np.array([self.risk(stages.until(step)) for step in at])

    def constant(self, size: float, time: Floats | float) -> Floats:
        """Return the risk of a constant batch at intrinsic times, labels' noise
        only.
        """
        noise = self.lr * self.noise / 2 * self.noise_memory(time) / size
        return self.floor + self.signal(time) + noise

    def catch_up(self, small: int, large: int, steps: int, within: float = 0.05) -> int:
        """Return the steps after a switch until the run is close to one that was
        always ``large``.

        The switch comes after ``steps`` steps; close is an excess of at most
        ``within`` of the other's risk above the floor, at the same step. Sublinear
        in ``steps`` iff the task is hard.

        Args:
            small: Batch before the switch.
            large: Batch after it.
            steps: Steps before the switch.
            within: Excess that counts as close.
        """
        before, gap = self.lr * steps, 1 / small - 1 / large

        def far(after: int) -> bool:
            time = self.lr * after
            kept = self.noise_memory(before + time) - self.noise_memory(time)
            excess = self.lr * self.noise / 2 * gap * kept
            return bool(
                excess > within * (self.constant(large, before + time) - self.floor)
            )

        low, high = 0, 1
        while far(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if far(middle) else (low, middle)
        return high

    def switch_exponent(self) -> float:
        """Return the power of the budget with which the data after the best switch
        grow.

        gamma = (1 + s) / (2 - 1 / beta) for hard tasks; 1, a fixed share, for easy
        ones.
        """
        return min(1.0, (1 + self.source) / self.exponent)


def _grid(end: float, least: float) -> Floats:
    return np.concatenate([[0.0], np.geomspace(least, end, _POINTS)])


# --- the best schedule ------------------------------------------------------------


#: Bins, logarithmic in the steps to go; numbers of steps tried at first, and in
#: each refinement, and their relative distance in the last one.
_BINS, _COARSE, _FINE, _PRECISION = 400, 48, 12, 1e-4
_BISECTIONS = 60
_SHARES = 4000


@dataclass(frozen=True)
class Optimum:
    """A schedule in whole batches that uses the budget exactly, and its predicted
    risk.
    """

    schedule: Stages
    risk: float


def optimal(law: Law, budget: int, least: int = 1, most: int | None = None) -> Optimum:
    """Return the schedule with the least predicted risk that uses ``budget``
    samples.

    ``least`` and ``most`` bound the batch. For a fixed number of steps n, b(r) =
    sqrt(K(r) / mu) within the bounds, r being the time to go, is optimal (the
    problem is convex and separable); mu is bisected so that the budget is met, and
    n is searched for on refined grids.

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
        edges, sizes, risks = _fill(law, np.exp(tried), budget, least, most)
        best, step = int(np.argmin(risks)), tried[1] - tried[0]
        if step <= _PRECISION:
            break
        tried = np.linspace(
            max(low, tried[best] - step), min(high, tried[best] + step), _FINE
        )
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


def _fill(
    law: Law, steps: Floats, budget: int, least: float, most: float
) -> tuple[Floats, Floats, Floats]:
    """Return edges in steps to go, batch sizes and risks, for several numbers of
    ``steps``.
    """
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
        used = (width * np.clip(level * np.exp(-middle), least, most)).sum(
            axis=1, keepdims=True
        )
        low, high = (
            np.where(used > budget, middle, low),
            np.where(used > budget, high, middle),
        )
    sizes = np.clip(level * np.exp(-high), least, most)
    return edges, sizes, law.signal(law.lr * steps) + (weight / sizes).sum(axis=1)


def _whole(edges: Floats, sizes: Floats, budget: int, most: int) -> Stages:
    """Return the schedule in whole steps and samples that lies closest."""
    steps = max(1, round(float(edges[-1])))
    to_go = steps - np.arange(steps) - 0.5
    centres = (edges[1:] + edges[:-1]) / 2
    smooth = np.exp(np.interp(np.log(to_go), np.log(centres), np.log(sizes)))
    return Stages.runs(as_sizes(smooth)).scale_to_budget(budget, most)


def two_stage(law: Law, budget: int, small: int, large: int) -> tuple[float, float]:
    """Return the best share of the data before one switch of the batch, and the
    predicted risk.

    0 means large batches from the start. Only the labels' noise counts.

    Args:
        law: The law of the loss.
        budget: Samples to use.
        small: Batch before the switch.
        large: Batch after it.
    """
    check_bounds(budget, small, large)
    # Evenly in the logarithm of what is left: late switches differ most from each
    # other.
    after = budget * np.geomspace(min(1.0, large / budget), 1.0, _SHARES)
    late = law.lr * after / large
    end = law.lr * (budget - after) / small + late
    noise = (law.noise_memory(end) - law.noise_memory(late)) / small + law.noise_memory(
        late
    ) / large
    risks = law.floor + law.signal(end) + law.lr * law.noise / 2 * noise
    best = int(np.argmin(risks))
    return 1 - float(after[best]) / budget, float(risks[best])
