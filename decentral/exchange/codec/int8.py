"""A quarter of the bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, Load
from decentral.registry import plugin


@plugin("codec", size=lambda load, settings: load.numbers + 4)
def int8(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Round at random to one of 255 steps from -max to max of a row: one byte a number, unbiased.

    C(x) = s floor(x / s + u), s = max|x| / 127, u uniform in [0, 1), keyed by node, round and
    column. (Alistarh et al., "QSGD", NeurIPS 2017.)
    """
    step = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / 127
    nodes, columns = np.array(draw.nodes)[:, None], np.arange(rows.shape[1])
    chance = rng.uniform(draw.seed, f"codec/{draw.purpose}", draw.round, nodes, columns)
    return step * torch.floor(rows / step + torch.from_numpy(chance).to(rows)).clamp(-127, 127)
