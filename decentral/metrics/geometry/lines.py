"""Straight lines between models, and the barriers on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Where a line is looked at: so many points, from a little before its start to a little behind.
POINTS, FIRST, LAST = 40, -0.2, 1.2


def positions(points: int = POINTS) -> Tensor:
    """Return places on a line, float64: ``points`` even ones in [-0.2, 1.2], and both ends.

    >>> positions(3).tolist()
    [-0.2, 0.0, 0.5, 1.0, 1.2]
    """
    even = torch.linspace(FIRST, LAST, points, dtype=torch.float64)
    return torch.cat([even, torch.tensor([0.0, 1.0], dtype=torch.float64)]).unique()


def along(start: Tensor, end: Tensor, places: Tensor) -> Iterator[Tensor]:
    """Yield the rows (1 - a) x + a y [P] for every place a."""
    for place in places.tolist():
        yield torch.lerp(start, end, place)


def barrier(places: Tensor, losses: Tensor) -> float:
    """Return how far the loss rises above the straight line between the losses of two models.

    max over a in [0, 1] of L(a) - (1 - a) L(0) - a L(1), at least 0: both ends are among the
    places. (Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020.)
    """
    inside = (places >= 0) & (places <= 1)
    place, loss = places[inside].double(), losses[inside].double()
    chord = torch.lerp(loss[place == 0], loss[place == 1], place)
    return (loss - chord).max().item()
