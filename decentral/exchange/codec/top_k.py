"""The largest numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import Share, plugin


@plugin(
    "codec",
    biased=True,
    size=lambda load, settings: load.share(settings["share"]) * (load.itemsize + 4),
)
def top_k(rows: Tensor, load: Load, draw: Draw, *, share: Share = 0.01) -> Tensor:
    """Keep the ``share`` of a row's numbers that are largest in magnitude, and their places.

    Only for differences: ``choco(top_k(0.01))``. (Stich et al., "Sparsified SGD with memory",
    NeurIPS 2018.)
    """
    places = rows.abs().topk(min(load.share(share), rows.shape[1]), dim=1).indices
    return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))
