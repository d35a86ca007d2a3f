"""A dead node."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import plugin


@plugin("attack", example="constant(share=0.2)")
def constant(rows: Tensor, load: Load, draw: Draw, *, value: float = 0.0) -> Tensor:
    """Send a row in which every number is ``value``, all the time."""
    said = torch.zeros_like(rows)
    for start, stop, _ in load.tensors:
        said[:, start:stop] = value
    return said
