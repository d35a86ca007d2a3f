"""Reduced models of training: an induction head that emerges, and two linear layers
under noise.

The first is a gradient flow.

The target is (c1 x_{L-2}, c2 IH_2), c1 = alpha / (1 + alpha), c2 = 1 / (1 + alpha).
Head 1 (p, v1) learns the shift, head 2 (w_K, w_Q, v2) the induction; for Gaussian
symbols and a long context L the losses are, with q = exp(-p), a = w_K w_Q and b =
w*^2:

    L_gram = 1/2 [c1^2 - 2 c1 v1 (1 - q) + v1^2 (1 - q)/(1 + q)]
    L_ind  = 1/(2L) [c2^2 (1-2b^2)^-1/2 - 2 c2 v2 (1-2ab)^-1/2 + v2^2 (1-2a^2)^-1/2]

(Wang, Yu, E & Wu, "How transformers get rich", 2024.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Any

import numpy as np

State = Sequence[float]
Field = Callable[[State], State]
Loss = Callable[[State], float]
Points = list[tuple[float, float]]  # times and losses

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Mixed:
    """The mixed target: weight ``alpha`` of the shift, ``match`` = w*^2, context
    ``length``.
    """

    alpha: float = 1.0
    match: float = 0.6
    length: float = 1000.0
    start: float = 1e-2

    def gram_loss(self, state: State) -> float:
        """Return L_gram at (p, v1)."""
        p, v = state
        c, q = self.alpha / (1 + self.alpha), exp(-p)
        return 0.5 * (c * c - 2 * c * v * (1 - q) + v * v * (1 - q) / (1 + q))

    def gram_field(self, state: State) -> State:
        """Return the gradient flow of L_gram."""
        p, v = state
        c, q = self.alpha / (1 + self.alpha), exp(-p)
        down = c * v - (v / (1 + q)) ** 2  # dL/dq, and dq/dp = -q
        return q * down, c * (1 - q) - v * (1 - q) / (1 + q)

    def induction_loss(self, state: State) -> float:
        """Return L_ind at (w_K, w_Q, v2), times L."""
        k, q, v = state
        a, b, c = k * q, self.match, 1 / (1 + self.alpha)
        own, cross, mine = ((1 - 2 * x) ** -0.5 for x in (b * b, a * b, a * a))
        return 0.5 * (c * c * own - 2 * c * v * cross + v * v * mine)

    def induction_field(self, state: State) -> State:
        """Return the gradient flow of L_ind."""
        k, q, v = state
        a, b, c = k * q, self.match, 1 / (1 + self.alpha)
        cross, mine = 1 - 2 * a * b, 1 - 2 * a * a
        uphill = (c * v * b * cross**-1.5 - v * v * a * mine**-1.5) / self.length
        return q * uphill, k * uphill, (c * cross**-0.5 - v * mine**-0.5) / self.length

    @property
    def plateau(self) -> float:
        """The length that theory gives the plateau: L (1 + alpha)^2 ln(1/sigma) /
        w*^2.
        """
        return self.length * (1 + self.alpha) ** 2 * log(1 / self.start) / self.match


@dataclass(frozen=True)
class Phases:
    """When the shift is learned, when the plateau of the induction loss ends, when
    it is over.
    """

    learned: float
    leaves: float
    arrives: float
    gram: list[tuple[float, float]]
    induction: list[tuple[float, float]]

    @property
    def abruptness(self) -> float:
        """The share of the whole time in which the induction head emerges, (T3 -
        T2) / T3.
        """
        return (self.arrives - self.leaves) / self.arrives

    @property
    def tail(self) -> float:
        """4 t L_gram at the end: 1 if the shift converges as 1/(4t)."""
        time, loss = self.gram[-1]
        return 4 * time * loss


def phases(model: Mixed) -> Phases:
    """Follow both flows from ``start`` until the induction head has emerged."""
    loss, start = model.induction_loss, (model.start,) * 3
    # With v2 = c2 and a = 0: what is left before the head emerges.
    # The height of the plateau, which the loss has to leave.
    level = loss((0.0, 0.0, 1 / (1 + model.alpha)))
    levels = [0.99 * level, 0.01 * level, 1e-4 * loss(start)]
    induction, (leaves, arrives, _) = flow(model.induction_field, start, loss, levels)
    loss, start = model.gram_loss, (model.start,) * 2
    levels = [0.01 * loss(start)]
    gram, (learned,) = flow(
        model.gram_field, start, loss, levels, until=10 * model.length
    )
    return Phases(learned, leaves, arrives, gram, induction)


def flow(
    field: Field, start: State, loss: Loss, levels: Sequence[float], until: float = inf
) -> tuple[Points, list[float]]:
    """Follow x' = field(x); return the loss over time, and when it falls below each
    level.

    Args:
        field: Slope of the state.
        start: State at time 0.
        loss: Loss of a state.
        levels: Levels of the loss, all of which are reached.
        until: When to end; by default where the loss falls below the last level.
    """
    from scipy.integrate import solve_ivp

    def above(level: float) -> Callable[[float, State], float]:
        return lambda time, state: loss(state) - level

    events = [above(level) for level in levels]
    # scipy reads this attribute of an event: the last level ends the integration.
    vars(events[-1])["terminal"] = until == inf
    found = solve_ivp(
        lambda time, state: field(state), (0.0, until), start,
        method="LSODA", rtol=_TOLERANCE, atol=1e-3 * _TOLERANCE, events=events,
    )  # fmt: skip
    losses = map(loss, found.y.T.tolist())
    return list(zip(found.t.tolist(), losses, strict=True)), [
        float(t[0]) for t in found.t_events
    ]


# --- two linear layers ------------------------------------------------------------

# f(x) = a^T W x: how fast noise, or a shaken second layer, shrinks W.


def decay_rate(
    lr: float, noise: float, first: float, second: float, dimension: int
) -> float:
    """Return by how much ln |W| falls in a step of SGD on one sample under label
    noise.

    r = lr^2 noise^2 / (2 (1 - lr K / 2)) (1 - d |a|^2 / |W|^2) with K = |W|^2 + d
    |a|^2, for inputs of independent standard coordinates, where the noiseless
    residual is zero: a step moves |W|^2 -
    |a|^2 by lr^2 e^2 (|a|^2 |x|^2 - |Wx|^2), and E[e^2] = noise^2 / (1 - lr K / 2). ``first`` is
    |W|^2, ``second`` |a|^2, ``dimension`` d. (After Zhang et al., "On the learning dynamics of
    two-layer linear networks with label noise SGD", AAAI 2026.)

    >>> f"{decay_rate(1e-3, 4.0, first=1000.0, second=1.0, dimension=20):.2e}"
    '1.60e-05'
    """
    curvature = first + dimension * second
    return lr**2 * noise**2 / (2 - lr * curvature) * (1 - dimension * second / first)


def shaken_norm(
    amplitude: float,
    seed: int = 0,
    *,
    steps: int = 10_000,
    lr: float = 5e-3,
    width: int = 200,
    dimension: int = 20,
    samples: int = 200,
) -> tuple[float, float]:
    """Return a neuron's mean norm before and after gradient descent while a is
    shaken.

    Full batches without label noise; after each step a += amplitude N(0, 1/m). Loss
    1/(2n) sum (a^T W x_i - t^T x_i)^2, W_ij ~ N(0, 1/d), a_j ~ N(0, 1/m). (The same
    paper.)

    Args:
        amplitude: Size of the shaking of a.
        seed: Seed of data, weights and shaking.
        steps: Steps of gradient descent.
        lr: Learning rate.
        width: Neurons, m.
        dimension: Dimension of the inputs, d.
        samples: Number of samples, n.
    """
    random = np.random.default_rng(seed)
    truth = random.standard_normal(dimension)
    truth /= np.linalg.norm(truth)
    inputs = random.standard_normal((samples, dimension))
    covariance = inputs.T @ inputs / samples
    weight = random.standard_normal((width, dimension)) / sqrt(dimension)
    outer = random.standard_normal(width) / sqrt(width)
    before = float(np.linalg.norm(weight, axis=1).mean())
    for _ in range(steps):
        slope = covariance @ (weight.T @ outer - truth)
        # Both from the old values: gradient descent moves all at once.
        weight, outer = (
            weight - lr * np.outer(outer, slope),
            outer - lr * (weight @ slope),
        )
        outer += amplitude * random.standard_normal(width) / sqrt(width)
    return before, float(np.linalg.norm(weight, axis=1).mean())


# --- how a loss rises -------------------------------------------------------------


def growth_rate(times: Sequence[float], values: Sequence[float]) -> float:
    """Return b of the curve a (exp(b t) - 1) / b that is closest, in squares, to values
    up to half of the highest; a is free.

    Above 0 they rise exponentially; 0 is a line, as of what diffuses; below 0 they
    level off, at -a / b. At least the first four values that are not at time 0 count;
    0 where they do not rise.

    Args:
        times: When, from 0 on.
        values: What has been added by then, 0 at first.

    >>> times = [float(t) for t in range(60)]
    >>> [
    ...     round(growth_rate(times, [(exp(b * t) - 1) / b for t in times]), 3)
    ...     for b in (-0.1, 0.001, 0.2)
    ... ]
    [-0.1, 0.001, 0.2]
    """
    t, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if y.max(initial=0.0) <= 0.0:
        return 0.0
    half = int(np.argmax(y >= y.max() / 2)) + 1
    t, y = t[: max(5, half)], y[: max(5, half)]
    # In units of the window, so that one grid serves all; expm1(b t) / b is t at 0.
    span = float(t[-1])

    def lost(b: float) -> float:
        shape = np.expm1(b * t / span) / b if b else t / span
        return float(np.square(y - (shape @ y) / (shape @ shape) * shape).sum())

    from scipy.optimize import minimize_scalar

    grid = np.linspace(-30.0, 30.0, 241)
    middle = float(min(grid, key=lost))
    found: Any = minimize_scalar(
        lost, bounds=(middle - 0.25, middle + 0.25), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    return float(found.x) / span
