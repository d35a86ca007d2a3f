"""A two-layer linear network on a linear target: where label noise leads from lazy to rich."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decentral import rng
from decentral.registry import Count, plugin
from decentral.tasks import Samples, Task


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


def _drawn(seed: int, purpose: str, samples: int, dimension: int) -> Tensor:
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
    nodes: int, seed: int, *, dimension: Count = 20, width: Count = 200, samples: Count = 200
) -> Task:
    """Fit y = t^T x, |t| = 1, by f(x) = a^T W x with ``width`` neurons; loss 1/2 (f - y)^2.

    Without label noise the neurons hardly move (lazy); with ``label_noise: 4`` their norms fall,
    then they align with t (rich): the metric ``neurons`` shows it. The paper has width 1,000 and
    rate 0.001. (Zhang et al., "On the learning dynamics of two-layer linear networks with label
    noise SGD", AAAI 2026.)
    """
    direction = _drawn(seed, "two_layer_linear/target", 1, dimension)[0]
    direction /= direction.norm()
    train, test = (
        Samples(x, (x @ direction).unsqueeze(1))
        for x in (
            _drawn(seed, f"two_layer_linear/{part}", samples, dimension)
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
