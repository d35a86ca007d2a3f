"""Targets that are given by a formula: quadratics, a linear map, a circle, a
function of pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from decentral import rng
from decentral.registry import Count, NonNegative, Positive, plugin
from decentral.tasks.base import Samples, Task, standardise


class Vector(nn.Module):
    """A bare parameter vector x [d] that ignores its input."""

    def __init__(self, dimension: int, start: float = 0.0) -> None:
        """Start at a number in every direction."""
        super().__init__()
        self.x = nn.Parameter(torch.full((dimension,), start))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return x for every sample, [B, d]."""
        return self.x.expand(inputs.shape[0], -1)


def quadratic_loss(x: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of 1/2 sum_d a_d (x_d - b_d)^2 over targets [B, 2, d] = (a,
    b).
    """
    curvature, centre = targets[:, 0], targets[:, 1]
    return 0.5 * (curvature * (x - centre) ** 2).sum(-1).mean()


@plugin(
    "task",
    defaults={
        "optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
        "learning_rate": {"name": "constant", "lr": 0.05},
        "batch": {"name": "constant", "size": 1},
        "steps": 500,
        "local_steps": 1,
    },
)
def quadratic(
    nodes: int,
    seed: int,
    *,
    dimension: Count = 10,
    heterogeneity: NonNegative = 1.0,
    condition: Positive = 4.0,
    noise: NonNegative = 0.0,
    samples: Count = 16,
) -> Task:
    """Minimise the mean of f_i(x) = 1/2 (x - b_i)^T A_i (x - b_i), diagonal A_i,
    one f_i per node.

    Curvatures lie in [1, ``condition``]; centres spread with deviation
    ``heterogeneity``; each of a node's ``samples`` moves its centre by Gaussian
    ``noise``. The optimum is sum(A_i b_i) / sum(A_i); ``best_loss`` is the loss
    there. The test loss is the global objective.

    Args:
        nodes: Number of nodes.
        seed: Seed of the run.
        dimension: Dimension of x.
        heterogeneity: Deviation of the nodes' centres.
        condition: Largest curvature; the least is 1.
        noise: Deviation of a sample's centre from its node's.
        samples: Samples of a node.
    """
    node, axis = np.arange(nodes)[:, None], np.arange(dimension)
    curvature = condition ** rng.uniform(seed, "quadratic/curvature", node, axis)
    centre = heterogeneity * rng.normal(seed, "quadratic/centre", node, axis)
    curvature, centre = (one.repeat(samples, axis=0) for one in (curvature, centre))
    if noise:
        # By sample, while curvature and centre are by node: single gradients are noisy.
        place = np.arange(nodes * samples)[:, None]
        centre = centre + noise * rng.normal(seed, "quadratic/noise", place, axis)
    targets = torch.stack([torch.from_numpy(curvature), torch.from_numpy(centre)], 1)
    # Curvature times centre, over the sum of curvatures: where the mean gradient is
    # 0.
    optimum = targets.prod(1).sum(0) / targets[:, 0].sum(0)
    best, bend = quadratic_loss(optimum, targets), targets[:, 0].mean(0)

    def objective(parameters: Mapping[str, Tensor]) -> Tensor:
        """Return f(x*) + 1/2 (x - x*)^T mean(A) (x - x*): nothing cancels near the
        optimum.
        """
        x = parameters["x"]
        away = x.double() - optimum.to(x.device)
        return best.to(x.device) + 0.5 * away.square() @ bend.to(x.device)

    data = Samples(torch.zeros(len(targets), 1, dtype=targets.dtype), targets)
    return Task(
        loss=quadratic_loss,
        train=data,
        test=data,
        model=lambda: Vector(dimension),
        owners=torch.arange(nodes).repeat_interleave(samples),
        best_loss=float(best),
        objective=objective,
    )


@plugin(
    "task",
    defaults={
        "optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
        "learning_rate": {"name": "constant", "lr": 0.02},
        "batch": {"name": "constant", "size": 1},
        "steps": 400,
        "local_steps": 1,
    },
)
def powers(
    nodes: int,
    seed: int,
    *,
    power: Annotated[float, Gt(1)] = 4.0,
    dimension: Count = 64,
    heterogeneity: NonNegative = 1.0,
    noise: NonNegative = 3.0,
    samples: Count = 400,
) -> Task:
    """Minimise the sum over directions of |x|^p / p from x = 1, under noise.

    Node i sees |x|^p / p - h_i x, each sample another tilt; tilts cancel. For p > 2 the
    mean of models that disagree moves faster than one.

    Args:
        nodes: Number of nodes.
        seed: Seed of the run.
        power: p.
        dimension: Dimension of x.
        heterogeneity: Deviation of the nodes' tilts.
        noise: Deviation of a sample's tilt from its node's.
        samples: Samples of a node.
    """
    node, axis = np.arange(nodes)[:, None], np.arange(dimension)
    tilt = heterogeneity * rng.normal(seed, "powers/tilt", node, axis)
    place = np.arange(nodes * samples)[:, None]
    drawn = noise * rng.normal(seed, "powers/noise", place, axis)
    tilt = (tilt - tilt.mean(0)).repeat(samples, axis=0)
    targets = torch.from_numpy(tilt + drawn - drawn.mean(0))

    def loss(x: Tensor, targets: Tensor) -> Tensor:
        return (x.abs().pow(power) / power - targets * x).sum(-1).mean()

    def objective(parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["x"].double().abs().pow(power).sum() / power

    data = Samples(torch.zeros(len(targets), 1, dtype=targets.dtype), targets)
    return Task(
        loss=loss,
        train=data,
        test=data,
        model=lambda: Vector(dimension, 1.0),
        owners=torch.arange(nodes).repeat_interleave(samples), best_loss=0.0,
        objective=objective,
    )  # fmt: skip


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of 1/2 (f - y)^2."""
    return 0.5 * (outputs - targets).square().mean()


def _network(dimension: int, width: int) -> nn.Module:
    """Return f(x) = a^T W x with W_ij ~ N(0, 1/d) and a_j ~ N(0, 1/m)."""
    first = nn.Linear(dimension, width, bias=False)
    second = nn.Linear(width, 1, bias=False)
    nn.init.normal_(first.weight, std=dimension**-0.5)
    nn.init.normal_(second.weight, std=width**-0.5)
    return nn.Sequential(first, second)


def _draw_normal(seed: int, purpose: str, samples: int, dimension: int) -> Tensor:
    place, axis = torch.arange(samples).numpy()[:, None], torch.arange(dimension).numpy()
    return torch.from_numpy(rng.normal(seed, purpose, place, axis))


@plugin(
    "task",
    defaults={
        "optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
        "learning_rate": {"name": "constant", "lr": 0.005},
        "batch": {"name": "constant", "size": 1},
        "split": "iid",
        "steps": 40_000,
        "local_steps": 100,
    },
)
def two_layer_linear(
    nodes: int,
    seed: int,
    *,
    dimension: Count = 20,
    width: Count = 200,
    samples: Count = 200,
) -> Task:
    """Fit y = t^T x, |t| = 1, by f(x) = a^T W x with ``width`` neurons; loss 1/2 (f
    - y)^2.

    Without label noise the neurons hardly move (lazy); with ``label_noise: 4``
    their norms fall, then they align with t (rich): the metric ``neurons`` shows
    it. The paper has width 1,000 and rate 0.001. (Zhang et al., "On the learning
    dynamics of two-layer linear networks with label noise SGD", AAAI 2026.)

    Args:
        nodes: Number of nodes.
        seed: Seed of the run.
        dimension: Dimension of the inputs.
        width: Neurons of the model.
        samples: Training samples.
    """
    direction = _draw_normal(seed, "two_layer_linear/target", 1, dimension)[0]
    direction /= direction.norm()
    train, test = (
        Samples(x, (x @ direction).unsqueeze(1))
        for x in (
            _draw_normal(seed, f"two_layer_linear/{part}", samples, dimension)
            for part in ("train", "test")
        )
    )
    return Task(
        loss=half_square,
        train=train,
        test=test,
        model=lambda: _network(dimension, width),
        best_loss=0.0,
    )


#: Settings of a run that suit regression on a smooth function.
DEFAULTS = {
    "model": {"name": "moe"},
    "split": {"name": "iid"},
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
    "learning_rate": {"name": "cosine", "lr": 0.003},
    "batch": {"name": "constant", "size": 256},
}


@plugin("task", defaults=DEFAULTS)
def circle(
    seed: int, *, dimension: Count = 16, samples: Count = 8192, test: Count = 2048
) -> Task:
    """Learn f(t) = sin(5 cos t) + cos(3 sin t) from x = sqrt(d) F (cos t, sin t) in
    R^d.

    F is a random 2-frame: the inputs lie on a one-dimensional manifold, whatever
    ``dimension`` d is, and their coordinates have mean square 1. Targets have mean
    0 and variance 1, so that the loss is the relative mean squared error. (Wang &
    E, "On the expressive power of mixture-of-experts for structured complex tasks",
    2025.)

    Args:
        seed: Seed of the run.
        dimension: Dimension of the inputs.
        samples: Training samples.
        test: Test samples.
    """
    size = max(2, dimension)
    frame = rng.normal(seed, "circle/frame", np.arange(size)[:, None], np.arange(2))
    # In one dimension only the first coordinate of the circle is seen.
    basis = np.linalg.qr(frame)[0][:dimension]
    angle = 2 * np.pi * rng.uniform(seed, "circle/angle", np.arange(samples + test))
    plane = np.stack([np.cos(angle), np.sin(angle)], 1)
    value = standardise(np.sin(5 * plane[:, 0]) + np.cos(3 * plane[:, 1]))
    inputs = torch.from_numpy(dimension**0.5 * plane @ basis.T).float()
    targets = torch.from_numpy(value).float().unsqueeze(1)
    return Task(
        loss=mse_loss,
        train=Samples(inputs[:samples], targets[:samples]),
        test=Samples(inputs[samples:], targets[samples:]),
    )


#: Distance between the centres of neighbouring intervals, and half of an interval's
#: length.
SPACING, HALF = 1.5, 0.5


@plugin("task", defaults=DEFAULTS)
def pieces(
    seed: int,
    *,
    coordinates: Count = 2,
    intervals: Count = 3,
    samples: Count = 16_384,
    test: Count = 4096,
) -> Task:
    """Learn f(x) = prod_l q_{l,i(l)}(u_l): intervals^coordinates pieces of few
    quadratics.

    Coordinate x_l lies in one of ``intervals`` separated intervals, i(l), at the
    place u_l in [-1, 1] of it; the q are quadratics with Gaussian coefficients.
    Targets have mean 0 and variance
    1. (Wang & E, "On the expressive power of mixture-of-experts for structured
       complex tasks",
    2025: E^L pieces from L x E functions.)

    Args:
        seed: Seed of the run.
        coordinates: Number of coordinates.
        intervals: Intervals of a coordinate.
        samples: Training samples.
        test: Test samples.
    """
    sample, axis = np.arange(samples + test)[:, None], np.arange(coordinates)
    which = rng.integers(
        np.full((len(sample), coordinates), intervals),
        seed,
        "pieces/interval",
        sample,
        axis,
    )
    place = 2 * rng.uniform(seed, "pieces/place", sample, axis) - 1
    shape = (
        np.arange(coordinates)[:, None, None],
        np.arange(intervals)[:, None],
        np.arange(3),
    )
    weights = rng.normal(seed, "pieces/quadratic", *shape)
    value = np.ones(len(sample))
    for level in range(coordinates):
        powers = place[:, level, None] ** np.arange(3)
        value *= (weights[level, which[:, level]] * powers).sum(1)
    inputs = torch.from_numpy(centres(intervals)[which] + HALF * place).float()
    targets = torch.from_numpy(standardise(value)).float().unsqueeze(1)
    return Task(
        loss=mse_loss,
        train=Samples(inputs[:samples], targets[:samples]),
        test=Samples(inputs[samples:], targets[samples:]),
    )


def centres(intervals: int) -> NDArray[np.float64]:
    """Return the centres of the intervals of one coordinate.

    >>> centres(3).tolist()
    [-1.5, 0.0, 1.5]
    """
    return SPACING * (np.arange(intervals, dtype=np.float64) - (intervals - 1) / 2)


def affine_slopes(levels: int, experts: int) -> NDArray[np.float64]:
    """Return the slope vectors [experts^levels, levels] of a target with that many
    affine pieces.

    Level l offers the slopes a_{l,i}, a grid in [-1, 1]; a piece takes one of each
    level.

    >>> affine_slopes(2, 2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    grid = np.linspace(-1.0, 1.0, experts)
    return np.stack(np.meshgrid(*[grid] * levels, indexing="ij"), -1).reshape(-1, levels)


def route_experts(
    x: NDArray[np.float64], which: NDArray[np.int64], experts: int
) -> NDArray[np.float64]:
    """Return what ``levels`` layers of affine experts give: layer l adds a_{l,i(l)}
    x_l, [B].

    Args:
        x: Inputs, [B, L].
        which: Expert of every layer, [B, L].
        experts: Experts of a layer.
    """
    grid, h = np.linspace(-1.0, 1.0, experts), np.zeros(len(x))
    for level in range(x.shape[1]):
        h = h + grid[which[:, level]] * x[:, level]
    return h


def one_layer_error(levels: int, experts: int, starts: int = 200) -> float:
    """Return the least relative error of one layer with the same levels x experts
    affine experts.

    It has to stand for experts^levels slope vectors with levels x experts of its
    own: the best of ``starts`` runs of k-means, relative to the mean square of the
    slopes. Offsets are ignored, which favours the single layer.
    """
    from sklearn import cluster

    slopes = affine_slopes(levels, experts)
    means: Any = cluster.KMeans
    found = means(levels * experts, n_init=starts, random_state=0).fit(slopes)
    return float(found.inertia_ / (slopes**2).sum())
