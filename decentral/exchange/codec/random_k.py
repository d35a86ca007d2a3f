"""The same few numbers of everybody."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, How, Load, Wire, as_bytes, from_bytes
from decentral.registry import Share, plugin


def _columns(width: int, load: Load, draw: Draw, share: float) -> Tensor:
    """Return the columns of a round, the same for all nodes."""
    count = min(load.share(share), width)
    chosen = rng.permuted(np.arange(count), width, draw.seed, "codec/columns", draw.round)
    return torch.from_numpy(chosen)


def _pack(rows: Tensor, coded: Tensor, how: How) -> Tensor:
    columns = _columns(coded.shape[1], how.load, how.draw, how.settings["share"])
    return as_bytes(coded[:, columns.to(coded.device)])


def _unpack(packed: Tensor, like: Tensor, how: How) -> Tensor:
    found = like.new_zeros(len(packed), like.shape[1])
    columns = _columns(like.shape[1], how.load, how.draw, how.settings["share"])
    found[:, columns.to(like.device)] = from_bytes(packed, like.dtype)
    return found


@plugin(
    "codec",
    size=lambda load, settings: load.share(settings["share"]) * load.itemsize,
    wire=Wire(_pack, _unpack),
)
def random_k(rows: Tensor, load: Load, draw: Draw, *, share: Share = 0.1) -> Tensor:
    """Send a ``share`` of the columns, drawn anew in every round and the same for all nodes.

    Who shares the seed needs no places; these columns are averaged exactly. (Stich et al.,
    "Sparsified SGD with memory", 2018, with one draw for all, as in SPARTA of EXO, 2025.)
    """
    columns = _columns(rows.shape[1], load, draw, share).to(rows.device)
    return torch.zeros_like(rows).index_copy_(1, columns, rows[:, columns])
