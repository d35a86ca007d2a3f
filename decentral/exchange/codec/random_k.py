"""The same few numbers of everybody."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, Load
from decentral.registry import Share, plugin


@plugin("codec", size=lambda load, settings: load.share(settings["share"]) * load.itemsize)
def random_k(rows: Tensor, load: Load, draw: Draw, *, share: Share = 0.1) -> Tensor:
    """Send a ``share`` of the columns, drawn anew in every round and the same for all nodes.

    Who shares the seed needs no places; these columns are averaged exactly. (Stich et al.,
    "Sparsified SGD with memory", 2018, with one draw for all, as in SPARTA of EXO, 2025.)
    """
    width, count = rows.shape[1], min(load.share(share), rows.shape[1])
    chosen = rng.permuted(np.arange(count), width, draw.seed, "codec/columns", draw.round)
    columns = torch.from_numpy(chosen).to(rows.device)
    return torch.zeros_like(rows).index_copy_(1, columns, rows[:, columns])
