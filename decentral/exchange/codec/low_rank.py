"""The codec ``low_rank``: two factors of every matrix instead of the matrix."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec.base import (
    CodecContext,
    RngContext,
    TensorLayout,
    Wire,
    as_bytes,
    from_bytes,
)
from decentral.registry import Count, plugin


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def _numbers(shape: tuple[int, ...], rank: int) -> int:
    """Count the numbers of two factors of a matrix that gets smaller by it, or its
    own.
    """
    high, wide = _matrix(shape)
    return min(high * wide, rank * (high + wide))


def _smaller(shape: tuple[int, ...], rank: int) -> bool:
    """Whether two factors of a tensor are smaller than the tensor."""
    return _numbers(shape, rank) < prod(shape)


def _size(layout: TensorLayout, rank: int) -> int:
    return sum(_numbers(shape, rank) for _, _, shape in layout.tensors) * layout.itemsize


def _factors(m: Tensor, place: int, draw: RngContext, rank: int) -> tuple[Tensor, Tensor]:
    """Return P [n, high, rank] and P' M [n, rank, wide] of the matrices M [n, high,
    wide].
    """
    axes = np.arange(m.shape[2])[:, None], np.arange(rank)
    q = rng.normal(draw.seed, f"codec/low_rank/{place}", draw.round, *axes)
    # Q is the same for all nodes, keyed by tensor and round, so that it never
    # travels.
    p, _ = torch.linalg.qr(m @ torch.from_numpy(q).to(m))
    return p, p.mT @ m


def _product(p: Tensor, f: Tensor) -> Tensor:
    """Return P F, added up in one order, so that both ends of a wire get the same
    bits.
    """
    total = p[:, :, :1] * f[:, :1]
    for k in range(1, p.shape[2]):
        total.add_(p[:, :, k : k + 1] * f[:, k : k + 1])
    return total.flatten(1)


def _pack_low_rank(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    rank = context.settings["rank"]
    parts: list[Tensor] = []
    for place, (start, stop, shape) in enumerate(context.layout.tensors):
        # From the row itself: QR of the coded product might give another basis of
        # the same space, with other bits.
        numbers = rows[:, start:stop]
        if _smaller(shape, rank):
            factors = _factors(
                numbers.view(-1, *_matrix(shape)), place, context.draw, rank
            )
            parts += [factor.flatten(1) for factor in factors]
        else:
            parts.append(numbers)
    return as_bytes(torch.cat(parts, 1))


def _unpack_low_rank(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    rank, at = context.settings["rank"], 0
    numbers = from_bytes(packed, like.dtype)
    found = like.new_zeros(len(packed), like.shape[1])
    for start, stop, shape in context.layout.tensors:
        size = _numbers(shape, rank)
        part = numbers[:, at : at + size]
        if _smaller(shape, rank):
            high, wide = _matrix(shape)
            p, f = part.split([rank * high, rank * wide], 1)
            part = _product(p.reshape(-1, high, rank), f.reshape(-1, rank, wide))
        found[:, start:stop] = part
        at += size
    return found


@plugin(
    "codec",
    biased=True,
    size=lambda layout, settings: _size(layout, settings["rank"]),
    example="low_rank(2)",
    wire=Wire(_pack_low_rank, _unpack_low_rank),
)
def low_rank(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, rank: Count = 1
) -> Tensor:
    """Replace every matrix M by P P' M, P an orthonormal basis of M Q, Q random
    [columns, rank].

    Only for differences: ``choco(low_rank(1))``. One power iteration per round,
    from a keyed start; PowerGossip (Vogels et al., NeurIPS 2020) iterates on the
    differences of each pair instead.

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        rank: Columns of P.
    """
    coded = rows.clone()
    for place, (start, stop, shape) in enumerate(layout.tensors):
        if _smaller(shape, rank):
            m = rows[:, start:stop].view(-1, *_matrix(shape))
            coded[:, start:stop] = _product(*_factors(m, place, draw, rank))
    return coded
