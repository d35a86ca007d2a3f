"""The average weighted by data."""

from __future__ import annotations

from torch import Tensor

from decentral.registry import plugin


@plugin("merge")
def weighted(samples: Tensor) -> Tensor:
    """Average all models weighted by their training samples, x = sum_i (m_i / m) x_i."""
    return samples / samples.sum()
