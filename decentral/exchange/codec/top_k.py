"""The largest numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, How, Load, Wire, as_bytes, from_bytes
from decentral.registry import Share, plugin


def _pack(rows: Tensor, coded: Tensor, how: How) -> Tensor:
    count = min(how.load.share(how.settings["share"]), coded.shape[1])
    places = coded.abs().topk(count, dim=1).indices
    return torch.cat([as_bytes(coded.gather(1, places)), as_bytes(places.to(torch.int32))], 1)


def _unpack(packed: Tensor, like: Tensor, how: How) -> Tensor:
    cut = packed.shape[1] * like.element_size() // (like.element_size() + 4)
    values = from_bytes(packed[:, :cut], like.dtype)
    places = from_bytes(packed[:, cut:], torch.int32).long()
    return like.new_zeros(len(packed), like.shape[1]).scatter_(1, places, values)


@plugin(
    "codec",
    biased=True,
    size=lambda load, settings: load.share(settings["share"]) * (load.itemsize + 4),
    wire=Wire(_pack, _unpack),
)
def top_k(rows: Tensor, load: Load, draw: Draw, *, share: Share = 0.01) -> Tensor:
    """Keep the ``share`` of a row's numbers that are largest in magnitude, and their places.

    Only for differences: ``choco(top_k(0.01))``. (Stich et al., "Sparsified SGD with memory",
    NeurIPS 2018.)
    """
    places = rows.abs().topk(min(load.share(share), rows.shape[1]), dim=1).indices
    return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))
