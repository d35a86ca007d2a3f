"""Means of what is left between the extremes."""

from __future__ import annotations

from torch import Tensor


def trimmed(values: Tensor, cut: int, dim: int) -> Tensor:
    """Return the mean along ``dim`` without the ``cut`` least and the ``cut`` greatest values.

    One or two always stay: those in the middle, whose mean is the median.
    """
    count = values.shape[dim]
    cut = min(cut, (count - 1) // 2)
    return values.sort(dim=dim).values.narrow(dim, cut, count - 2 * cut).mean(dim=dim)


def median(values: Tensor, dim: int) -> Tensor:
    """Return the median along ``dim``; of an even number the mean of the two in the middle."""
    return trimmed(values, values.shape[dim], dim)
