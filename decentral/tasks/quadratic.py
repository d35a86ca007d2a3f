"""Heterogeneous quadratics with a closed-form optimum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decentral import rng
from decentral.registry import Count, NonNegative, Positive, plugin
from decentral.tasks import Samples, Task


class Vector(nn.Module):
    """A bare parameter vector x [d] that ignores its input."""

    def __init__(self, dimension: int) -> None:
        """Start at zero."""
        super().__init__()
        self.x = nn.Parameter(torch.zeros(dimension))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return x for every sample, [B, d]."""
        return self.x.expand(inputs.shape[0], -1)


def quadratic_loss(x: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of 1/2 sum_d a_d (x_d - b_d)^2 over targets [B, 2, d] = (a, b)."""
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
    """Minimise the mean of f_i(x) = 1/2 (x - b_i)^T A_i (x - b_i), diagonal A_i, one f_i per node.

    Curvatures lie in [1, ``condition``]; centres spread with deviation ``heterogeneity``; each of a
    node's ``samples`` moves its centre by Gaussian ``noise``. The optimum is sum(A_i b_i) /
    sum(A_i); ``best_loss`` is the loss there. The test loss is the global objective.
    """
    node = torch.arange(nodes).repeat_interleave(samples).numpy()[:, None]
    place = torch.arange(nodes * samples).numpy()[:, None]
    axis = torch.arange(dimension).numpy()
    curvature = condition ** rng.uniform(seed, "quadratic/curvature", node, axis)
    centre = heterogeneity * rng.normal(seed, "quadratic/centre", node, axis)
    centre = centre + noise * rng.normal(seed, "quadratic/noise", place, axis)
    targets = torch.stack([torch.from_numpy(curvature), torch.from_numpy(centre)], 1)
    optimum = targets.prod(1).sum(0) / targets[:, 0].sum(0)
    data = Samples(torch.zeros(len(targets), 1, dtype=targets.dtype), targets)
    return Task(
        loss=quadratic_loss,
        train=data,
        test=data,
        model=lambda: Vector(dimension),
        owners=torch.arange(nodes).repeat_interleave(samples),
        best_loss=float(quadratic_loss(optimum, targets)),
    )
