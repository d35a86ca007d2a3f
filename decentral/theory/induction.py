"""The reduced model of how an induction head emerges, as a gradient flow.

The target is (c1 x_{L-2}, c2 IH_2), c1 = alpha / (1 + alpha), c2 = 1 / (1 + alpha). Head 1 (p, v1)
learns the shift, head 2 (w_K, w_Q, v2) the induction; for Gaussian symbols and a long context L the
losses are, with q = exp(-p), a = w_K w_Q and b = w*^2:

    L_gram = 1/2 [c1^2 - 2 c1 v1 (1 - q) + v1^2 (1 - q)/(1 + q)]
    L_ind  = 1/(2L) [c2^2 (1-2b^2)^-1/2 - 2 c2 v2 (1-2ab)^-1/2 + v2^2 (1-2a^2)^-1/2]

(Wang, Yu, E & Wu, "How transformers get rich", 2024.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log

State = tuple[float, ...]
Field = Callable[[State], State]

#: Weights of the third-order step of Bogacki and Shampine (1989), and of its error.
_STAGES = ((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Mixed:
    """The mixed target: weight ``alpha`` of the shift, ``match`` = w*^2, context ``length``."""

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
        """The length that theory gives the plateau: L (1 + alpha)^2 ln(1/sigma) / w*^2."""
        return self.length * (1 + self.alpha) ** 2 * log(1 / self.start) / self.match


@dataclass(frozen=True)
class Phases:
    """When the shift is learned, when the plateau of the induction loss ends, when it is over."""

    learned: float
    leaves: float
    arrives: float
    gram: list[tuple[float, float]]
    induction: list[tuple[float, float]]

    @property
    def abruptness(self) -> float:
        """The share of the whole time in which the induction head emerges, (T3 - T2) / T3."""
        return (self.arrives - self.leaves) / self.arrives

    @property
    def tail(self) -> float:
        """4 t L_gram at the end: 1 if the shift converges as 1/(4t)."""
        time, loss = self.gram[-1]
        return 4 * time * loss


def phases(model: Mixed) -> Phases:
    """Follow both flows from ``start`` until the induction head has emerged."""
    induction: list[tuple[float, float]] = []
    for time, state in flow(model.induction_field, (model.start,) * 3):
        induction.append((time, model.induction_loss(state)))
        if induction[-1][1] <= 1e-4 * induction[0][1]:
            break
    # With v2 = c2 and a = 0: what is left before the head emerges.
    level = model.induction_loss((0.0, 0.0, 1 / (1 + model.alpha)))
    leaves = [time for time, loss in induction if loss >= 0.99 * level][-1]
    arrives = next(time for time, loss in induction if loss <= 0.01 * level)
    gram: list[tuple[float, float]] = []
    for time, state in flow(model.gram_field, (model.start,) * 2):
        gram.append((time, model.gram_loss(state)))
        if time >= 10 * model.length:
            break
    learned = next(time for time, loss in gram if loss <= 0.01 * gram[0][1])
    return Phases(learned, leaves, arrives, gram, induction)


def flow(field: Field, start: State) -> Iterator[tuple[float, State]]:
    """Yield times and states of x' = field(x), by adaptive steps of third order."""
    time, step, state = 0.0, 1e-3, start
    yield time, state
    while True:
        slopes: list[State] = []
        for weights in _STAGES:
            slopes.append(field(_moved(state, step, weights, slopes)))
        moved = _moved(state, step, _STAGES[-1], slopes)
        wrong = _moved((0.0,) * len(state), step, _ERROR, slopes)
        error = max(abs(e) / (1e-3 + abs(x)) for e, x in zip(wrong, moved, strict=True))
        if error <= _TOLERANCE:
            time, state = time + step, moved
            yield time, state
        step *= min(4.0, max(0.2, 0.9 * (_TOLERANCE / max(error, 1e-300)) ** (1 / 3)))


def _moved(state: State, step: float, weights: Sequence[float], slopes: list[State]) -> State:
    return tuple(
        x + step * sum(w * slope[i] for w, slope in zip(weights, slopes, strict=False))
        for i, x in enumerate(state)
    )
