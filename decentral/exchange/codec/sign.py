"""One bit a number."""

from __future__ import annotations

from math import ceil

from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import plugin


@plugin("codec", biased=True, size=lambda load, settings: ceil(load.numbers / 8) + 4)
def sign(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Keep one bit a number and one magnitude: mean|x| times the signs of x.

    Only for differences: ``choco(sign)``. (Karimireddy et al., "Error feedback fixes SignSGD",
    ICML 2019.)
    """
    return rows.abs().sum(1, keepdim=True) / load.numbers * rows.sign()
