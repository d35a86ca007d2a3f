"""A row that is drowned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, Load
from decentral.registry import Positive, plugin


@plugin("attack", example="noise(share=0.2)")
def noise(rows: Tensor, load: Load, draw: Draw, *, scale: Positive = 1.0) -> Tensor:
    """Add Gaussian noise to the own row, of ``scale`` times the root mean square of its numbers.

    Drawn anew in every round, keyed by node, round and column.
    """
    size = rows.norm(dim=1, keepdim=True) / load.numbers**0.5
    said = rows.clone()
    for start, stop, _ in load.tensors:
        axes = draw.round, np.array(draw.nodes)[:, None], np.arange(start, stop)
        drawn = rng.normal(draw.seed, f"attack/{draw.purpose}", *axes)
        said[:, start:stop] += scale * size * torch.from_numpy(drawn).to(rows)
    return said
