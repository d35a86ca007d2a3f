"""A quarter of the bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, How, Load, Wire, as_bytes, from_bytes
from decentral.registry import plugin


def _step(rows: Tensor) -> Tensor:
    return rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / 127


def _pack(rows: Tensor, coded: Tensor, how: How) -> Tensor:
    step = _step(rows)
    levels = (coded[:, how.load.columns] / step).round().to(torch.int8)
    return torch.cat([as_bytes(step), as_bytes(levels)], 1)


def _unpack(packed: Tensor, like: Tensor, how: How) -> Tensor:
    head = like.element_size()
    step = from_bytes(packed[:, :head], like.dtype)
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, how.load.columns] = step * from_bytes(packed[:, head:], torch.int8).to(like)
    return found


@plugin("codec", size=lambda load, settings: load.numbers + 4, wire=Wire(_pack, _unpack))
def int8(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Round at random to one of 255 steps from -max to max of a row: one byte a number, unbiased.

    C(x) = s floor(x / s + u), s = max|x| / 127, u uniform in [0, 1), keyed by node, round and
    column. (Alistarh et al., "QSGD", NeurIPS 2017.)
    """
    step = _step(rows)
    nodes, columns = np.array(draw.nodes)[:, None], np.arange(rows.shape[1])
    chance = rng.uniform(draw.seed, f"codec/{draw.purpose}", draw.round, nodes, columns)
    return step * torch.floor(rows / step + torch.from_numpy(chance).to(rows)).clamp(-127, 127)
