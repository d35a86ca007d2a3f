"""Half the bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import plugin


@plugin("codec", size=lambda load, settings: load.numbers * 2)
def bf16(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Round to bfloat16: two bytes a number, relative error at most 2^-8.

    The mean of the nodes is kept: a node moves by the difference of rounded rows.
    """
    return rows.to(torch.bfloat16).to(rows.dtype)
