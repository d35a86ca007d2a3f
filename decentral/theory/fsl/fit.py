"""The law of one's own task, fitted to the loss curves of runs with constant
batches.

    L(t) = L0 + c1 (1 + t / tau)^-s + c2 / B [1 - (1 + t / tau')^-(1 - 1/beta)]

For given s, beta, tau and tau' the other constants follow by least squares, so the
fit is a search on grids. Everything on the grids that explains the curves about as
well as the best is kept: its spread is the uncertainty of the constants and of
every prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.theory.fsl.law import Law
from decentral.theory.fsl.model import Stages

Floats = NDArray[np.float64]

#: Points that a curve is averaged to, logarithmic in time, and the share of time
#: left out at first.
_POINTS, _SKIPPED = 16, 0.03
#: Least points of a curve.
_LEAST = 8
#: How much longer than the longest curve, and with how much larger batches, a
#: prediction may be.
REACH, LARGER = 1.1, 8.0
#: Constants of the law, and the confidence at which values of them are plausible.
_CONSTANTS, _CONFIDENCE = 7, 0.95
#: Laws that stand for all plausible ones.
_KEPT = 120


@dataclass(frozen=True)
class Curve:
    """The loss of a run with a constant batch (of all nodes together) and learning
    rate.
    """

    name: str
    batch: int
    lr: float
    steps: Floats
    losses: Floats


@dataclass(frozen=True)
class Prediction:
    """A loss, and what every plausible law says about it: the least and the most."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """The best law, the plausible ones, and how well the best one explains the
    curves.
    """

    law: Law
    plausible: tuple[Law, ...]
    error: float  # root mean square of the relative residuals
    batches: tuple[int, int]  # the smallest and the largest that were seen
    steps: float  # of the longest curve

    def interval(self, constant: str) -> tuple[float, float]:
        """Return the least and the largest plausible ``source``, ``capacity`` or
        ``floor``.
        """
        values = [getattr(law, constant) for law in self.plausible]
        return min(values), max(values)

    def predict(self, stages: Stages) -> Prediction:
        """Return the loss at the end of a schedule; refuses to leave what the
        curves have shown.
        """
        self.check(stages.steps, int(stages.sizes.min()), int(stages.sizes.max()))
        losses = [law.risk(stages) for law in self.plausible]
        return Prediction(self.law.risk(stages), min(losses), max(losses))

    def check(self, steps: float, least: int, most: int) -> None:
        """Refuse a schedule that is longer than the runs bear, or has batches
        further out.

        Args:
            steps: Length of the schedule in steps.
            least: Smallest batch.
            most: Largest batch.
        """
        smallest, largest = self.batches
        if steps > REACH * self.steps:
            raise ConfigError(
                f"a schedule of {steps:,.0f} steps is beyond the runs, whose longest has "
                f"{self.steps:,.0f}; use a smaller budget, or fit a longer run."
            )
        if least < smallest or most > LARGER * largest:
            raise ConfigError(
                f"batches from {least:,} to {most:,} are beyond the runs, which bear "
                f"{smallest:,} to {LARGER * largest:,.0f}; change min or max, or fit other runs."
            )


def fit(curves: Sequence[Curve]) -> Fit:
    """Fit the law to the curves of at least two different constant batches at one
    learning rate.
    """
    _check(curves)
    # The first part of a run is no power law yet; what is left out depends on the
    # shortest, or a short run would be left out entirely.
    shortest = min(curve.lr * float(curve.steps[-1]) for curve in curves)
    points = np.concatenate([_thin(curve, _SKIPPED * shortest) for curve in curves])
    if len(points) <= _CONSTANTS + 2:
        raise ConfigError("fit: the curves have too few points; evaluate more often.")
    longest = max(curve.lr * float(curve.steps[-1]) for curve in curves)
    grid = _grid(curves[0].lr, longest)
    found, residuals = _solve(grid, points)
    # Twice finer around the best point: the first grid is coarse, since it spans
    # all.
    for _ in range(2):
        grid = _around(grid, found[int(np.argmin(residuals))])
        more = _solve(grid, points)
        found, residuals = (
            np.concatenate([found, more[0]]),
            np.concatenate([residuals, more[1]]),
        )
    order = np.argsort(residuals)
    good = order[residuals[order] <= residuals[order[0]] * _tolerance(len(points))]
    # Evenly from best to worst: the intervals of a prediction come from the
    # extremes.
    kept = good[np.unique(np.linspace(0, len(good) - 1, _KEPT).astype(int))]
    laws = [_law(row, curves[0].lr) for row in found[kept]]
    sizes = [curve.batch for curve in curves]
    return Fit(
        laws[0],
        tuple(laws),
        float(np.sqrt(residuals[order[0]] / len(points))),
        (min(sizes), max(sizes)),
        longest / curves[0].lr,
    )


def _tolerance(points: int) -> float:
    """Return how many times the least squared residuals those of plausible
    constants may be.

    1 + k / (n - k) F for k constants and n points, by the quantile of F(k, n - k).
    (Beale, "Confidence regions in non-linear estimation", 1960.)
    """
    # scipy.stats.f.ppf, which takes four times as long to import
    from scipy.special import (
        fdtri,
    )

    free = points - _CONSTANTS
    return 1 + _CONSTANTS / free * float(fdtri(_CONSTANTS, free, _CONFIDENCE))


def _check(curves: Sequence[Curve]) -> None:
    if len({curve.batch for curve in curves}) < 2:
        raise ConfigError(
            f"fit: {len(curves)} runs with one batch size cannot tell noise from drift; "
            "give runs with at least two different constant batches."
        )
    if len({curve.lr for curve in curves}) > 1:
        raise ConfigError(
            "fit: the runs have different learning rates; give runs with the same."
        )
    for curve in curves:
        if len(curve.losses) < _LEAST:
            raise ConfigError(
                f"fit: run {curve.name} has {len(curve.losses)} evaluations; "
                f"at least {_LEAST} are needed, see eval_every."
            )
        third = len(curve.losses) // 3
        late = float(np.mean(curve.losses[-third:]))
        if not np.isfinite(curve.losses).all() or late >= float(curve.losses[0]):
            raise ConfigError(
                f"fit: the loss of run {curve.name} does not fall (it diverges, or never learned); "
                "leave it out, or lower its learning rate."
            )


def _thin(curve: Curve, begin: float) -> Floats:
    """Return points (time, 1 / batch, loss), one for each of a few stretches of log
    time.
    """
    time = curve.lr * curve.steps
    later = time >= begin
    time, losses = time[later], curve.losses[later]
    edges = np.geomspace(max(begin, time[0]), time[-1] * (1 + 1e-9), _POINTS + 1)
    place = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, _POINTS - 1)
    rows = [
        (
            np.exp(np.log(time[place == k]).mean()),
            1 / curve.batch,
            losses[place == k].mean(),
        )
        for k in np.unique(place)
    ]
    return np.array(rows)


def _grid(lr: float, longest: float) -> list[Floats]:
    """Return the values of s, 1 - 1/beta, tau and tau' to begin with."""
    scale = np.geomspace(lr / 2, longest / 2, 12)
    return [np.geomspace(0.03, 3.0, 20), np.linspace(0.1, 0.9, 9), scale, scale]


def _around(grid: list[Floats], best: Floats) -> list[Floats]:
    """Return a finer grid between the neighbours of the best point."""
    finer: list[Floats] = []
    for axis, at in zip(grid, best, strict=False):
        below, above = axis[axis < at], axis[axis > at]
        ends = below[-1] if len(below) else at, above[0] if len(above) else at
        finer.append(np.unique(np.append(np.geomspace(*ends, 8), at)))
    return finer


def _solve(grid: list[Floats], points: Floats) -> tuple[Floats, Floats]:
    """Return rows (s, 1 - 1/beta, tau, tau', L0, c1, c2), and their squared
    relative residuals.
    """
    time, inverse, loss = points.T
    s, q, tau, forget = (
        axis.reshape(-1, 1) for axis in np.meshgrid(*grid, indexing="ij")
    )
    drift, memory = (1 + time / tau) ** -s, 1 - (1 + time / forget) ** -q
    columns = (
        np.stack([np.ones_like(drift), drift, inverse * memory], axis=-1) / loss[:, None]
    )
    best, constants = np.full(len(s), np.inf), np.zeros((len(s), 3))
    for used in product((False, True), repeat=3):
        if not used[1]:  # without drift there is no law
            continue
        part = columns[..., used]
        square = part.transpose(0, 2, 1) @ part + 1e-12 * np.eye(part.shape[-1])
        solved = np.linalg.solve(square, part.sum(axis=1)[..., None])[..., 0]
        left = np.square((part @ solved[..., None])[..., 0] - 1).sum(axis=1)
        better = (solved >= 0).all(axis=1) & (left < best)
        best[better] = left[better]
        constants[better] = 0.0
        constants[np.ix_(better, used)] = solved[better]
    return np.column_stack([s, q, tau, forget, constants]), best


def _law(row: Floats, lr: float) -> Law:
    """Return fitted constants as a law."""
    s, q, tau, forget, floor, drift, noise = (float(value) for value in row)
    return Law(
        source=s,
        capacity=1 / (1 - q),
        noise=1.0,
        lr=lr,
        drift=(drift * (2 * tau) ** s, 2 * tau),
        memory=(noise * 2 * q * (2 * forget) ** q * 2 / lr, 2 * forget),
        floor=floor,
        multiplicative=False,
    )
