"""Drop and rescale."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from decentral import rng
from decentral.merge import Models
from decentral.registry import plugin


@plugin("merge", sees="models", moves_equal=True, ordered=True)
def dare(models: Models, *, drop: Annotated[float, Ge(0), Lt(1)] = 0.5) -> Tensor:
    """Average what models have learnt since their common start, most of it left out at random.

    Every number of x_i - x_0 is dropped with probability ``drop``, or else divided by 1 - drop, so
    that the average stays what it was in expectation. (Yu et al., "Language models are super
    Mario", ICML 2024.)
    """
    total = torch.zeros_like(models.start)
    for node, row in enumerate(models.rows):
        columns = np.arange(len(row))
        stays = rng.uniform(models.seed, "dare", node, columns) >= drop
        total += (row - models.start) * torch.from_numpy(stays).to(row.device)
    return models.start + total / ((1 - drop) * len(models.rows))
