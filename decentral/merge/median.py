"""The median."""

from __future__ import annotations

from torch import Tensor

from decentral.exchange import ordered
from decentral.merge import Models
from decentral.registry import plugin


@plugin("merge", sees="models")
def median(models: Models) -> Tensor:
    """Take the median of all models, number by number.

    Of an even number of models, the mean of the two in the middle. Fewer than half of the models,
    whatever they hold, cannot move it out of the range of the others. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return ordered.median(models.rows, 0)
