"""The trimmed mean."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from decentral.exchange import ordered
from decentral.merge import Models
from decentral.registry import plugin


@plugin("merge", sees="models")
def trimmed_mean(models: Models, *, share: Annotated[float, Ge(0), Lt(0.5)] = 0.2) -> Tensor:
    """Average all models, number by number, without the largest and the smallest.

    floor(``share`` N) are left out at either end; 0 is the plain average. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return ordered.trimmed(models.rows, int(share * len(models.rows)), 0)
