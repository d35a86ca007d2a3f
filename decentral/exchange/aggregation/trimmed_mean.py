"""The mean without the extremes."""

from __future__ import annotations

from torch import Tensor

from decentral.exchange import ordered
from decentral.registry import Count, plugin


@plugin("aggregation")
def trimmed_mean(values: Tensor, weights: Tensor, *, cut: Count = 1) -> Tensor:
    """Average the own row and what is heard, number by number, without ``cut`` at either end.

    Up to ``cut`` bad rows cannot move a number out of the range of the good ones; weights do not
    matter. Where there are too few rows, as many are left out as leave one or two. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return ordered.trimmed(values, cut, 1)
