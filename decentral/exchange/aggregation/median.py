"""The median."""

from __future__ import annotations

from torch import Tensor

from decentral.exchange import ordered
from decentral.registry import plugin


@plugin("aggregation")
def median(values: Tensor, weights: Tensor) -> Tensor:
    """Take the median of the own row and of all that is heard, number by number.

    Of an even number the mean of the two in the middle. While fewer than half of these rows are
    bad, every number stays within the range of the good ones; weights do not matter. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return ordered.median(values, 1)
