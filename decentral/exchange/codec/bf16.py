"""Half the bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, How, Load, Wire, as_bytes, from_bytes
from decentral.registry import plugin


def _pack(rows: Tensor, coded: Tensor, how: How) -> Tensor:
    return as_bytes(coded[:, how.load.columns].to(torch.bfloat16))


def _unpack(packed: Tensor, like: Tensor, how: How) -> Tensor:
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, how.load.columns] = from_bytes(packed, torch.bfloat16).to(like)
    return found


@plugin("codec", size=lambda load, settings: load.numbers * 2, wire=Wire(_pack, _unpack))
def bf16(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Round to bfloat16: two bytes a number, relative error at most 2^-8.

    The mean of the nodes is kept: a node moves by the difference of rounded rows.
    """
    return rows.to(torch.bfloat16).to(rows.dtype)
