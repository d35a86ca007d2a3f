"""Induction heads that are built, not trained: two layers of attention in closed form.

Symbols are vectors x_t in R^d, what lies before the first is 0. With U_t = (x_t, ...,
x_{t-n+2}), the last n - 1 of them,

    IH_n(x_1 .. x_L) = sum_{s < L} softmax_s(g(U_L, U_s)) x_{s+1},

g(u, v) = b u^T v for a plain induction head (n = 2), and for one that compares more
than one symbol; g(u, v) = -b |u - v|^2 / 2, which is no inner product, for a
generalised one. Layer 1 looks at places only: head h weighs what is k behind by
exp(-p_h (k - 1)), so that a weighted sum of H heads writes x_{t-1}, ..., x_{t-n+1}
beside x_t. Between the layers a feed-forward part of M neurons a coordinate may write
|v|^2. Layer 2 has one head, whose queries are u at L and whose keys are v at s + 1.

One head is enough for n = 2, n - 1 heads for n, with errors that vanish as exp(-p); no
number of them without a feed-forward part is enough for a generalised one. (After
Wang, Yu, E & Wu, "How transformers get rich: approximation and dynamics analysis",
2024, whose sums begin at s = n.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Coordinates beyond it have the slope of the last piece of the square.
_REACH = 6.0


@dataclass(frozen=True)
class Built:
    """Two layers of attention with weights that are written down.

    ``history`` symbols are compared, n - 1; ``heads`` look at places, none: as many as
    there are symbols to fetch. Their decay begins at ``strength``, p; 0 is without
    regard to places. ``sharpness`` is b, 0 without regard to content; ``neurons`` the
    feed-forward part, M a coordinate.
    """

    history: int = 1
    heads: int | None = None
    strength: float = 8.0
    sharpness: float = 3.0
    neurons: int = 0

    def answer(self, symbols: Floats) -> Floats:
        """Return what it says after every sequence, [B, d] for symbols [B, L, d]."""
        behind = self._fetch(symbols)  # [B, L, n - 1, d], x_{t-1} first
        now = np.concatenate([symbols[:, :, None], behind], 2)
        query = now[:, -1, : self.history]
        scores = np.einsum("bkd,blkd->bl", query, behind)
        if self.neurons:
            scores -= square(behind, self.neurons).sum((2, 3)) / 2
        return _attend(self.sharpness * scores, symbols)

    def _fetch(self, symbols: Floats) -> Floats:
        """Return what the first layer writes beside every symbol."""
        length = symbols.shape[1]
        back = np.arange(length)[:, None] - np.arange(length)
        if not self.strength:
            weights = (back > 0) / np.maximum(1, np.arange(length))[:, None]
            mean = np.einsum("ts,bsd->btd", weights, symbols)
            return np.repeat(mean[:, :, None], self.history, 2)
        count = self.history if self.heads is None else self.heads
        # Head h has the decay h exp(-p) a place; equal ones would be one head.
        decay = np.exp(-self.strength) * np.arange(1, count + 1)
        # What is before the first symbol is looked at, too, and is 0.
        place = decay[:, None, None] ** np.maximum(back - 1, 0) * (back > 0)
        seen = np.einsum("hts,bsd->bthd", place * (1 - decay[:, None, None]), symbols)
        return np.einsum("kh,bthd->btkd", self._mix(decay), seen)

    def _mix(self, decay: Floats) -> Floats:
        """Return the weights of the heads of which each x_{t-k} is the sum, [n - 1,
        H]: those of least error over the first places back.
        """
        places = np.arange(max(self.history, len(decay)))
        heads = decay ** places[:, None] * (1 - decay)  # [places, H]
        wanted = np.eye(len(places), self.history)
        return np.linalg.lstsq(heads, wanted, rcond=1e-300)[0].T.astype(np.float64)


def square(x: Floats, neurons: int) -> Floats:
    """Return a x + b + sum of ``neurons`` rectified lines that is x^2 at as many
    evenly spread knots.

    >>> square(np.array([-4.0, 0.0, 0.5, 2.0]), 4).tolist()
    [18.0, 0.0, 1.5, 6.0]
    """
    knots = np.linspace(-_REACH, _REACH, neurons + 1)
    slopes = knots[1:] + knots[:-1]  # of x^2 between knots
    bends = np.diff(slopes, prepend=0.0)
    lines = np.maximum(x[..., None] - knots[:-1], 0.0)
    # The first line also carries on below the least knot.
    below = np.minimum(x - knots[0], 0.0) * slopes[0]
    return knots[0] ** 2 + below + lines @ bends


def target(symbols: Floats, history: int, sharpness: float, distance: bool) -> Floats:
    """Return IH_n of every sequence, exactly, [B, d] for symbols [B, L, d].

    Args:
        symbols: Sequences of vectors.
        history: Symbols that are compared, n - 1.
        sharpness: b.
        distance: Whether g is that of a generalised head.
    """
    length = symbols.shape[1]
    before = np.pad(symbols, ((0, 0), (history, 0), (0, 0)))
    behind = np.stack(
        [before[:, history - k : history - k + length] for k in range(1, history + 1)], 2
    )
    query = symbols[:, : -history - 1 : -1]
    scores = np.einsum("bkd,blkd->bl", query, behind)
    if distance:
        scores = -np.square(query[:, None] - behind).sum((2, 3)) / 2
    return _attend(sharpness * scores, symbols)


def _attend(scores: Floats, symbols: Floats) -> Floats:
    """Return sum_s softmax_s(scores) x_s over all sequences."""
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.einsum("bl,bld->bd", weights / weights.sum(1, keepdims=True), symbols)


def error(built: Built, symbols: Floats, right: Floats) -> float:
    """Return how far the answers are from the right ones, over the spread of these.

    Args:
        built: The two layers.
        symbols: Sequences [B, L, d].
        right: The right answers, [B, d].
    """
    return float(np.sqrt(np.square(built.answer(symbols) - right).mean() / right.var()))


#: Strengths p, and neurons a coordinate, at which errors are taken.
STRENGTHS, NEURONS = (5.0, 6.0, 7.0, 8.0), (32, 64, 128, 256)


def measure(
    seed: int, sequences: int = 200, length: int = 32, width: int = 4
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return named figures of heads that are built and of what is left of them when a
    part is taken away, and errors by strength.

    Args:
        seed: Seed of the symbols, which are Gaussian.
        sequences: Number of sequences.
        length: Their length.
        width: Dimension of a symbol.
    """
    symbols = np.random.default_rng(seed).standard_normal((sequences, length, width))
    one, three = Built(), Built(history=3)
    # At p = 8 the first layer's error would hide that of the neurons.
    wide = Built(strength=14.0, neurons=NEURONS[-1])
    near, last, far = (
        target(symbols, built.history, built.sharpness, built is wide)
        for built in (one, three, wide)
    )

    def errors(
        built: Built, right: Floats, name: str, values: Sequence[float]
    ) -> list[float]:
        return [
            error(replace(built, **{name: value}), symbols, right) for value in values
        ]

    strengths = {
        "one head": errors(one, near, "strength", STRENGTHS),
        "three heads": errors(three, last, "strength", STRENGTHS),
    }
    falls = {
        f"fall of the error per unit of p, {name}": _fall(found)
        for name, found in strengths.items()
    }
    falls["power of the neurons in the error"] = _fall(
        errors(wide, far, "neurons", NEURONS)
    ) / log(2)
    left = {
        "places": error(replace(one, strength=0.0), symbols, near),
        "content": error(replace(one, sharpness=0.0), symbols, near),
        "one of three heads": error(replace(three, heads=2), symbols, last),
        "feed-forward": error(replace(wide, neurons=0), symbols, far),
    }
    return falls | {
        f"error of built heads without {part}": value for part, value in left.items()
    }, strengths


def _fall(errors: list[float]) -> float:
    """Return the mean fall of the logarithm from each to the next."""
    return log(errors[0] / errors[-1]) / (len(errors) - 1)
