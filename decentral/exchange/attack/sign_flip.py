"""The opposite of a row."""

from __future__ import annotations

from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import Positive, plugin


@plugin("attack", example="sign_flip(share=0.2)")
def sign_flip(rows: Tensor, load: Load, draw: Draw, *, scale: Positive = 1.0) -> Tensor:
    """Send -``scale`` times the own row.

    (Karimireddy, He & Jaggi, "Byzantine-robust learning on heterogeneous datasets", ICLR 2022,
    where gradients are flipped; here it is whatever nodes send.)
    """
    return -scale * rows
