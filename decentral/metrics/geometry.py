"""The geometry of trained models: pure functions over rows, features, gradients and
losses.

Nothing here knows a run: what is evaluated, and on which samples, is the caller's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decentral import rng
from decentral.layout import Layout

# --- how far models are apart -----------------------------------------------------


@dataclass(frozen=True)
class LayerSpread:
    """One layer of several models: distance from their mean, and its share of the
    mean.
    """

    name: str
    parameters: int
    distance: float
    relative: float | None  # None where the mean is 0


def layer_spread(rows: Tensor, mean: Tensor, layout: Layout) -> list[LayerSpread]:
    """Return sqrt((1/N) sum_i |x_i - x|^2) and its share of |x| for every layer, in
    row order.

    ``rows`` [N, P], ``mean`` [P]; a layer is a module with parameters of its own,
    named like it.

    Args:
        rows: The models, [N, P].
        mean: Their mean, [P].
        layout: Where each parameter stands in a row.
    """
    sums: dict[str, list[float]] = {}
    for entry in layout.parameters:
        some = slice(entry.start, entry.stop)
        away = (rows[:, some] - mean[some]).square().sum(
            dtype=torch.float64
        ).item() / len(rows)
        size = mean[some].square().sum(dtype=torch.float64).item()
        total = sums.setdefault(entry.name.rpartition(".")[0], [0.0, 0.0, 0.0])
        for place, value in enumerate((entry.stop - entry.start, away, size)):
            total[place] += value
    return [
        LayerSpread(name, int(count), away**0.5, (away / size) ** 0.5 if size else None)
        for name, (count, away, size) in sums.items()
    ]


def mean_cosine(rows: Tensor, origin: Tensor) -> float | None:
    """Return the mean cosine between x_i - o and x_j - o over all pairs i != j;
    None for no pair.

    (|sum_i u_i|^2 - M) / (M (M - 1)) with the unit vectors u_i of the M rows that
    differ from the origin: linear in the number of rows [N, P], though pairs are
    not.
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
    """Return the cosine of the angle between two rows as seen from the origin, None
    at it.

    Args:
        one: A row, [P].
        other: Another, [P].
        origin: From where the angle is seen, [P].
    """
    ways = [(row - origin).double() for row in (one, other)]
    lengths = ways[0].norm() * ways[1].norm()
    return (ways[0] @ ways[1] / lengths).item() if lengths > 0 else None


# --- lines ------------------------------------------------------------------------

#: Where a line is looked at: so many points, from a little before its start to a
#: little behind.
POINTS, FIRST, LAST = 40, -0.2, 1.2


def positions(points: int = POINTS) -> Tensor:
    """Return places on a line, float64: ``points`` even ones in [-0.2, 1.2], and
    both ends.

    >>> positions(3).tolist()
    [-0.2, 0.0, 0.5, 1.0, 1.2]
    """
    # Both models themselves are looked at, whatever the number of points: a barrier
    # is measured from them.
    even = torch.linspace(FIRST, LAST, points, dtype=torch.float64)
    return torch.cat([even, torch.tensor([0.0, 1.0], dtype=torch.float64)]).unique()


def along(start: Tensor, end: Tensor, places: Tensor) -> Iterator[Tensor]:
    """Yield the rows (1 - a) x + a y [P] for every place a.

    Args:
        start: x, [P].
        end: y, [P].
        places: Places a.
    """
    for place in places.tolist():
        yield torch.lerp(start, end, place)


def barrier(places: Tensor, losses: Tensor) -> float:
    """Return how far the loss rises above the straight line between the losses of
    two models.

    max over a in [0, 1] of L(a) - (1 - a) L(0) - a L(1), at least 0: both ends are
    among the places. (Frankle et al., "Linear mode connectivity and the lottery
    ticket hypothesis", 2020.)
    """
    inside = (places >= 0) & (places <= 1)
    place, loss = places[inside].double(), losses[inside].double()
    chord = torch.lerp(loss[place == 0], loss[place == 1], place)
    return (loss - chord).max().item()


# --- planes -----------------------------------------------------------------------

#: Share of the extent of what is on a plane that is shown around it.
MARGIN = 0.25
#: Two directions with less than this share of a right angle between them span no
#: plane.
_FLAT = 1e-6


@dataclass(frozen=True)
class Plane:
    """The rows origin + u first + v second, with a grid of coordinates u [k] and v
    [k].
    """

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
        """Return where a row lies, or its nearest point does: the directions are
        orthogonal.
        """
        away = (row - self.origin).double()
        axes = (self.first.double(), self.second.double())
        u, v = ((away @ axis / (axis @ axis)).item() for axis in axes)
        return u, v


def through(one: Tensor, two: Tensor, three: Tensor, points: int) -> Plane | None:
    """Return the plane through three rows [P], None where they lie on a line.

    Its directions are orthonormal (Gram-Schmidt), so that coordinates are distances
    of parameters; the first row lies at 0, the second at (|two - one|, 0). (Garipov
    et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs", 2018.)

    Args:
        one: A row, [P].
        two: Another, [P].
        three: A third, [P].
        points: Points along a side.
    """
    to_two, to_three = (two - one).double(), (three - one).double()
    width = to_two.norm()
    first = to_two / width.clamp_min(torch.finfo(torch.float64).tiny)
    # What is left orthogonal to the first direction (Gram-Schmidt).
    rest = to_three - (to_three @ first) * first
    height = rest.norm()
    # Written with ``not``, so that NaN is no plane either.
    if not height > _FLAT * to_three.norm() or not width > 0:
        return None
    ends = torch.stack([torch.zeros_like(width), width, to_three @ first])
    u, v = (
        _grid(ends.min(), ends.max(), points),
        _grid(torch.zeros_like(height), height, points),
    )
    return Plane(one, first.to(one), (rest / height).to(one), u, v)


def around(
    row: Tensor, layout: Layout, seed: int, points: int, reach: float = 1.0
) -> Plane:
    """Return a plane of two random directions through a row [P], ``reach`` in each
    of them.

    Every filter of a direction (the weights into one unit) is as long as that of
    the row; vectors such as biases stay as they are. So 1 is a change as large as
    the weights themselves, whatever their scale. (Li et al., "Visualizing the loss
    landscape of neural nets", 2018.)

    Args:
        row: The row, [P].
        layout: Where each parameter stands in it.
        seed: Seed of the directions.
        points: Points along a side.
        reach: How far it goes in each direction.
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
        # Filter by filter: layers with ReLU may be scaled against each other
        # without changing the function, and the picture must not change with that.
        scale = own.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        direction[entry.start : entry.stop] = (scale * drawn).flatten()
    return direction


def _grid(low: Tensor, high: Tensor, points: int) -> Tensor:
    edge = MARGIN * (high - low)
    return torch.linspace(
        (low - edge).item(), (high + edge).item(), points, dtype=torch.float64
    )


# --- features of layers -----------------------------------------------------------


def gram(features: Tensor) -> Tensor:
    """Return the products of centred features of all pairs of samples, float64 [B,
    B].

    ``features`` [B, ...]: what a layer makes of every sample.
    """
    flat = features.flatten(1).double()
    # CKA compares how samples differ, so that a shift of all of them does not
    # count.
    centred = flat - flat.mean(0)
    return centred @ centred.T


def cka(one: Tensor, other: Tensor) -> float | None:
    """Return the linear CKA of two Gram matrices [B, B] of centred features, None
    where one is 0.

    <K, L> / (|K| |L|) = |Y^T X|^2 / (|X^T X| |Y^T Y|): 1 for features that differ
    in a rotation and a scale, 0 for features that have nothing in common.
    (Kornblith et al., "Similarity of neural network representations revisited",
    2019.)
    """
    lengths = one.norm() * other.norm()
    return ((one * other).sum() / lengths).item() if lengths > 0 else None


def layer_names(layout: Layout) -> list[str]:
    """Return the modules that have parameters of their own, in their order in a
    row.
    """
    return list(
        dict.fromkeys(entry.name.rpartition(".")[0] for entry in layout.parameters)
    )


class Features:
    """Computes the Gram matrices of all layers of one row after the other, on the
    same inputs.

    A layer is a module with parameters of its own; its features are its output,
    flattened, at its last call. A model that computes with parameters of its own
    beside those of its layers has one more layer, itself.
    """

    def __init__(self, model: nn.Module, layout: Layout, inputs: Tensor) -> None:
        """Look at ``inputs`` [B, ...] through the model."""
        # A copy: hooks and numbers of single rows must not reach the run's
        # template.
        self.model, self.layout, self.inputs = copy.deepcopy(model).eval(), layout, inputs

    def __call__(self, row: Tensor) -> dict[str, Tensor]:
        """Return the Gram matrix [B, B] of every layer of a row [P]."""
        self.layout.unpack(row, self.model)
        found: dict[str, Tensor] = {}
        modules = dict(self.model.named_modules())
        hooks = [
            modules[name].register_forward_hook(_keeper(found, name))
            for name in layer_names(self.layout)
        ]
        try:
            with torch.no_grad():
                self.model(self.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _keeper(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return a hook that keeps the Gram matrix of what a module returns."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = gram(output)

    return keep


def agreement(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """Return the linear CKA of two models, layer by layer."""
    return {
        name: cka(matrix, other[name]) for name, matrix in one.items() if name in other
    }


# --- gradient noise ---------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """``signal`` estimates |G|^2 of the true gradient G, ``noise`` the trace of its
    covariance.

    ``scale`` = noise / signal is the batch, in samples, at which both are equally
    large: larger batches mostly repeat what is known. None where the signal is lost
    in the noise.
    """

    signal: float
    noise: float

    @property
    def scale(self) -> float | None:
        """The simple noise scale tr(S) / |G|^2, in samples."""
        return self.noise / self.signal if self.signal > 0 else None


def noise_scale(gradients: Iterable[Tensor], batch: int) -> Noise:
    """Estimate signal and noise from the gradients [P] of k >= 2 independent
    batches of one size.

    With the small batch b, the large one B = k b whose gradient is the mean, and
    their mean squared norms s and S: |G|^2 = (B S - b s) / (B - b) and tr = (s - S)
    / (1/b - 1/B), both unbiased. (McCandlish et al., "An empirical model of
    large-batch training", 2018, appendix A.1.)
    """
    norms: list[float] = []
    total = torch.zeros((), dtype=torch.float64)
    for gradient in gradients:
        norms.append(gradient.square().sum(dtype=torch.float64).item())
        total = total.to(gradient.device) + gradient.double()
    small, large = batch, batch * len(norms)
    norm_small = sum(norms) / len(norms)
    norm_large = (total / len(norms)).square().sum().item()
    # May come out negative: the estimate is unbiased, and noise may exceed the
    # signal.
    signal = (large * norm_large - small * norm_small) / (large - small)
    return Noise(signal, (norm_small - norm_large) / (1 / small - 1 / large))
