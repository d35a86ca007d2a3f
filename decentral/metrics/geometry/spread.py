"""How far models are from each other, and whether they went the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from decentral.layout import Layout


@dataclass(frozen=True)
class LayerSpread:
    """One layer of several models: distance from their mean, and its share of the mean."""

    name: str
    parameters: int
    distance: float
    relative: float | None  # None where the mean is 0


def layer_spread(rows: Tensor, mean: Tensor, layout: Layout) -> list[LayerSpread]:
    """Return sqrt((1/N) sum_i |x_i - x|^2) and its share of |x| for every layer, in row order.

    ``rows`` [N, P], ``mean`` [P]; a layer is a module with parameters of its own, named like it.
    """
    sums: dict[str, list[float]] = {}
    for entry in layout.parameters:
        some = slice(entry.start, entry.stop)
        away = (rows[:, some] - mean[some]).square().sum(dtype=torch.float64).item() / len(rows)
        size = mean[some].square().sum(dtype=torch.float64).item()
        total = sums.setdefault(entry.name.rpartition(".")[0], [0.0, 0.0, 0.0])
        for place, value in enumerate((entry.stop - entry.start, away, size)):
            total[place] += value
    return [
        LayerSpread(name, int(count), away**0.5, (away / size) ** 0.5 if size else None)
        for name, (count, away, size) in sums.items()
    ]


def mean_cosine(rows: Tensor, origin: Tensor) -> float | None:
    """Return the mean cosine between x_i - o and x_j - o over all pairs i != j; None for no pair.

    (|sum_i u_i|^2 - M) / (M (M - 1)) with the unit vectors u_i of the M rows that differ from the
    origin: linear in the number of rows [N, P], though pairs are not.
    """
    total = torch.zeros_like(origin, dtype=torch.float64)
    count = 0
    for unit in _units(rows, origin):
        total += unit
        count += 1
    if count < 2:
        return None
    return ((total @ total).item() - count) / (count * (count - 1))


def _units(rows: Tensor, origin: Tensor) -> Iterator[Tensor]:
    for row in rows:
        away = (row - origin).double()
        if length := away.norm().item():
            yield away / length


def cosine(one: Tensor, other: Tensor, origin: Tensor) -> float | None:
    """Return the cosine of the angle between two rows as seen from the origin, None at it."""
    ways = [(row - origin).double() for row in (one, other)]
    lengths = ways[0].norm() * ways[1].norm()
    return (ways[0] @ ways[1] / lengths).item() if lengths > 0 else None
