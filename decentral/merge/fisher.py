"""The average weighted by Fisher information."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.merge import Models
from decentral.registry import Positive, plugin


@plugin("merge", sees="models")
def fisher(models: Models, *, floor: Positive = 1e-6) -> Tensor:
    """Average every number weighted by how much it matters to each model.

    x = sum_i F_i x_i / sum_i F_i with the mean squared gradient F_i of single samples of node i, at
    least ``floor``; where nothing matters to any model it is the plain average. (Matena & Raffel,
    "Merging models with Fisher-weighted averaging", NeurIPS 2022.)
    """
    total, weight = (torch.zeros_like(models.start) for _ in range(2))
    for node, row in enumerate(models.rows):
        information = models.fisher(node) + floor
        total += information * row
        weight += information
    return total / weight
