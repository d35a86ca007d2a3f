"""A smooth function on a circle that lies in a space of many dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import mse_loss

from decentral import rng
from decentral.registry import Count, plugin
from decentral.tasks import Samples, Task, standardised

#: Settings of a run that suit regression on a smooth function.
DEFAULTS = {
    "model": {"name": "moe"},
    "split": {"name": "iid"},
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
    "learning_rate": {"name": "cosine", "lr": 0.003},
    "batch": {"name": "constant", "size": 256},
}


@plugin("task", defaults=DEFAULTS)
def circle(seed: int, *, dimension: Count = 16, samples: Count = 8192, test: Count = 2048) -> Task:
    """Learn f(t) = sin(5 cos t) + cos(3 sin t) from x = sqrt(d) F (cos t, sin t) in R^d.

    F is a random 2-frame: the inputs lie on a one-dimensional manifold, whatever ``dimension`` d
    is, and their coordinates have mean square 1. Targets have mean 0 and variance 1, so that the
    loss is the relative mean squared error.
    (Wang & E, "On the expressive power of mixture-of-experts for structured complex tasks", 2025.)
    """
    size = max(2, dimension)
    frame = rng.normal(seed, "circle/frame", np.arange(size)[:, None], np.arange(2))
    basis = np.linalg.qr(frame)[0][:dimension]
    angle = 2 * np.pi * rng.uniform(seed, "circle/angle", np.arange(samples + test))
    plane = np.stack([np.cos(angle), np.sin(angle)], 1)
    value = standardised(np.sin(5 * plane[:, 0]) + np.cos(3 * plane[:, 1]))
    inputs = torch.from_numpy(dimension**0.5 * plane @ basis.T).float()
    targets = torch.from_numpy(value).float().unsqueeze(1)
    return Task(
        loss=mse_loss,
        train=Samples(inputs[:samples], targets[:samples]),
        test=Samples(inputs[samples:], targets[samples:]),
    )
