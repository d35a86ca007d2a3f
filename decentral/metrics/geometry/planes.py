"""Planes through models: where three models lie on one, and which points of it are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from decentral import rng
from decentral.layout import Layout

#: Share of the extent of what is on a plane that is shown around it.
MARGIN = 0.25
#: Two directions with less than this share of a right angle between them span no plane.
_FLAT = 1e-6


@dataclass(frozen=True)
class Plane:
    """The rows origin + u first + v second, with a grid of coordinates u [k] and v [k]."""

    origin: Tensor  # [P]
    first: Tensor  # [P]
    second: Tensor  # [P]
    u: Tensor  # float64
    v: Tensor  # float64

    def at(self, u: float, v: float) -> Tensor:
        """Return the row [P] at a point."""
        return self.origin + u * self.first + v * self.second

    def lines(self) -> Iterator[Iterator[Tensor]]:
        """Yield, for every v of the grid, the rows at all u."""
        for v in self.v.tolist():
            yield (self.at(u, v) for u in self.u.tolist())

    def coordinates(self, row: Tensor) -> tuple[float, float]:
        """Return where a row lies, or its nearest point does: the directions are orthogonal."""
        away = (row - self.origin).double()
        axes = (self.first.double(), self.second.double())
        u, v = ((away @ axis / (axis @ axis)).item() for axis in axes)
        return u, v


def through(one: Tensor, two: Tensor, three: Tensor, points: int) -> Plane | None:
    """Return the plane through three rows [P], None where they lie on a line.

    Its directions are orthonormal (Gram-Schmidt), so that coordinates are distances of parameters;
    the first row lies at 0, the second at (|two - one|, 0). (Garipov et al., "Loss surfaces, mode
    connectivity, and fast ensembling of DNNs", 2018.)
    """
    to_two, to_three = (two - one).double(), (three - one).double()
    width = to_two.norm()
    first = to_two / width.clamp_min(torch.finfo(torch.float64).tiny)
    rest = to_three - (to_three @ first) * first
    height = rest.norm()
    if not height > _FLAT * to_three.norm() or not width > 0:
        return None
    ends = torch.stack([torch.zeros_like(width), width, to_three @ first])
    u, v = _grid(ends.min(), ends.max(), points), _grid(torch.zeros_like(height), height, points)
    return Plane(one, first.to(one), (rest / height).to(one), u, v)


def around(row: Tensor, layout: Layout, seed: int, points: int, reach: float = 1.0) -> Plane:
    """Return a plane of two random directions through a row [P], ``reach`` in each of them.

    Every filter of a direction (the weights into one unit) is as long as that of the row; vectors
    such as biases stay as they are. So 1 is a change as large as the weights themselves, whatever
    their scale. (Li et al., "Visualizing the loss landscape of neural nets", 2018.)
    """
    first, second = (_direction(row, layout, seed, which) for which in (0, 1))
    second = second - (second @ first) / (first @ first).clamp_min(1e-300) * first
    grid = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return Plane(row, first.to(row), second.to(row), grid, grid)


def _direction(row: Tensor, layout: Layout, seed: int, which: int) -> Tensor:
    direction = row.new_zeros(len(row), dtype=torch.float64)
    matrices = [entry for entry in layout.parameters if len(entry.shape) > 1]
    for entry in matrices or layout.parameters:
        columns = torch.arange(entry.start, entry.stop).numpy()
        drawn = torch.from_numpy(rng.normal(seed, "plane", which, columns)).to(row.device)
        drawn, own = (t.view(entry.shape[0] if matrices else 1, -1)
                      for t in (drawn, row[entry.start : entry.stop].double()))  # fmt: skip
        scale = own.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        direction[entry.start : entry.stop] = (scale * drawn).flatten()
    return direction


def _grid(low: Tensor, high: Tensor, points: int) -> Tensor:
    edge = MARGIN * (high - low)
    return torch.linspace((low - edge).item(), (high + edge).item(), points, dtype=torch.float64)
