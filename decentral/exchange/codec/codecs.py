"""The codecs: every number smaller, or a part of a row only.

As it is, bfloat16, 8 bits, signs; some numbers, low rank, differences.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated

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
    code_rows,
    from_bytes,
)
from decentral.registry import (
    ConfiguredPlugin,
    NestedPlugin,
    Positive,
    Share,
    plugin,
)

# --- every number smaller ---------------------------------------------------------


@plugin("codec", uncoded=True)
def none(rows: Tensor, layout: TensorLayout, draw: RngContext) -> Tensor:
    """Send every number as it is.

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
    """
    return rows


def _pack_bf16(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    return as_bytes(coded[:, context.layout.columns].to(torch.bfloat16))


def _unpack_bf16(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, context.layout.columns] = from_bytes(packed, torch.bfloat16).to(like)
    return found


@plugin(
    "codec",
    size=lambda layout, settings: layout.numbers * 2,
    wire=Wire(_pack_bf16, _unpack_bf16),
)
def bf16(rows: Tensor, layout: TensorLayout, draw: RngContext) -> Tensor:
    """Round to bfloat16: two bytes a number, relative error at most 2^-8.

    The mean of the nodes is kept: a node moves by the difference of rounded rows.
    So numbers that round alike do not move: gossip alone brings models no nearer
    than bfloat16's spacing, 2^-7 to 2^-8 of a number (0.8 to 0.4 %); a global merge
    does.

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
    """
    # Half a spacing above the largest bfloat16, the nearest is infinity.
    most = torch.finfo(torch.bfloat16).max
    return rows.to(torch.bfloat16).clamp(-most, most).to(rows.dtype)


def _step(rows: Tensor) -> Tensor:
    # A row of zeros, such as the first difference of equal models, must not divide
    # by 0; of the largest numbers, 127 steps that were rounded up would be
    # infinite.
    kind = torch.finfo(rows.dtype)
    most = kind.max * (1 - 2 * kind.eps)
    return rows.abs().amax(1, keepdim=True).clamp(kind.tiny, most) / 127


def _pack_int8(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    step = _step(rows)
    # The coded row is a multiple of the step: rounding only undoes the division's
    # error.
    levels = (coded[:, context.layout.columns] / step).round().to(torch.int8)
    return torch.cat([as_bytes(step), as_bytes(levels)], 1)


def _unpack_int8(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    head = like.element_size()
    step = from_bytes(packed[:, :head], like.dtype)
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, context.layout.columns] = step * from_bytes(packed[:, head:], torch.int8).to(
        like
    )
    return found


@plugin(
    "codec",
    size=lambda layout, settings: layout.numbers + layout.itemsize,
    wire=Wire(_pack_int8, _unpack_int8),
)
def int8(rows: Tensor, layout: TensorLayout, draw: RngContext) -> Tensor:
    """Round at random to one of 255 steps from -max to max of a row: one byte a
    number, unbiased.

    C(x) = s floor(x / s + u), s = max|x| / 127, u uniform in [0, 1), keyed by node,
    round and column. (Alistarh et al., "QSGD", NeurIPS 2017.)

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
    """
    step = _step(rows)
    nodes, columns = np.array(draw.nodes)[:, None], np.arange(rows.shape[1])
    chance = rng.uniform(draw.seed, f"codec/{draw.purpose}", draw.round, nodes, columns)
    # The largest number may come out as 128 by rounding, which 8 bits cannot hold.
    return step * torch.floor(rows / step + torch.from_numpy(chance).to(rows)).clamp(
        -127, 127
    )


def _places(like: Tensor) -> Tensor:
    """Return the places of bits in a byte."""
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _pack_sign(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    numbers = coded[:, context.layout.columns]
    count = ceil(context.layout.numbers / 8)
    # Filled up to whole bytes; what is beyond the numbers is cut off when it is
    # read.
    minus = torch.zeros(len(coded), count * 8, dtype=torch.uint8, device=coded.device)
    minus[:, : context.layout.numbers] = numbers < 0
    bits = minus.view(-1, count, 8) << _places(coded)
    magnitude = numbers.abs().amax(1, keepdim=True)
    # Eight different powers of two: the sum is their ``or``, and never overflows a
    # byte.
    return torch.cat([as_bytes(magnitude), bits.sum(2, dtype=torch.uint8)], 1)


def _unpack_sign(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    head = like.element_size()
    magnitude = from_bytes(packed[:, :head], like.dtype)
    bits = packed[:, head:, None] >> _places(packed) & 1
    minus = bits.flatten(1)[:, : context.layout.numbers].to(like)
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, context.layout.columns] = magnitude * (1 - 2 * minus)
    return found


@plugin(
    "codec",
    biased=True,
    size=lambda layout, settings: ceil(layout.numbers / 8) + layout.itemsize,
    wire=Wire(_pack_sign, _unpack_sign),
)
def sign(rows: Tensor, layout: TensorLayout, draw: RngContext) -> Tensor:
    """Keep one bit a number and one magnitude: mean|x| times the signs of x, 0
    counting as +.

    Only for differences: ``choco(sign)``. (Karimireddy et al., "Error feedback
    fixes SignSGD", ICML 2019.)

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
    """
    numbers = rows[:, layout.columns]
    magnitude = numbers.abs().sum(1, keepdim=True) / layout.numbers
    coded = torch.zeros_like(rows)
    # Not ``torch.sign``: a zero must be one of the two, since there is only one
    # bit.
    coded[:, layout.columns] = torch.where(numbers < 0, -magnitude, magnitude)
    return coded


# --- a part of a row --------------------------------------------------------------


def _pack_top_k(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    count = min(context.layout.share(context.settings["share"]), coded.shape[1])
    # Of what was coded, not of the rows: among equals it might choose other places.
    places = coded.abs().topk(count, dim=1).indices
    return torch.cat(
        [as_bytes(coded.gather(1, places)), as_bytes(places.to(torch.int32))], 1
    )


def _unpack_top_k(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    # Values first, then an int32 place for each: the cut follows from the length
    # alone.
    cut = packed.shape[1] * like.element_size() // (like.element_size() + 4)
    values = from_bytes(packed[:, :cut], like.dtype)
    places = from_bytes(packed[:, cut:], torch.int32).long()
    return like.new_zeros(len(packed), like.shape[1]).scatter_(1, places, values)


@plugin(
    "codec",
    biased=True,
    size=lambda layout, settings: layout.share(settings["share"]) * (layout.itemsize + 4),
    wire=Wire(_pack_top_k, _unpack_top_k),
)
def top_k(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, share: Share = 0.01
) -> Tensor:
    """Keep the ``share`` of a row's numbers that are largest in magnitude, and
    their places.

    Only for differences: ``choco(top_k(0.01))``. (Stich et al., "Sparsified SGD
    with memory", NeurIPS 2018.)

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        share: Share of a row's numbers that is sent.
    """
    places = rows.abs().topk(min(layout.share(share), rows.shape[1]), dim=1).indices
    return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))


def _columns(width: int, layout: TensorLayout, draw: RngContext, share: float) -> Tensor:
    """Return the columns of a round, the same for all nodes."""
    count = min(layout.share(share), width)
    # Neither by node nor by channel: both ends know the columns, so no places
    # travel.
    chosen = rng.permute(np.arange(count), width, draw.seed, "codec/columns", draw.round)
    return torch.from_numpy(chosen)


def _pack_random_k(rows: Tensor, coded: Tensor, context: CodecContext) -> Tensor:
    columns = _columns(
        coded.shape[1], context.layout, context.draw, context.settings["share"]
    )
    return as_bytes(coded[:, columns.to(coded.device)])


def _unpack_random_k(packed: Tensor, like: Tensor, context: CodecContext) -> Tensor:
    found = like.new_zeros(len(packed), like.shape[1])
    columns = _columns(
        like.shape[1], context.layout, context.draw, context.settings["share"]
    )
    found[:, columns.to(like.device)] = from_bytes(packed, like.dtype)
    return found


@plugin(
    "codec",
    size=lambda layout, settings: layout.share(settings["share"]) * layout.itemsize,
    wire=Wire(_pack_random_k, _unpack_random_k),
)
def random_k(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, share: Share = 0.1
) -> Tensor:
    """Send a ``share`` of the columns, drawn anew in every round and the same for
    all nodes.

    Who shares the seed needs no places; these columns are averaged exactly. (Stich
    et al., "Sparsified SGD with memory", 2018, with one draw for all, as in SPARTA
    of EXO, 2025.)

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        share: Share of the columns that is sent.
    """
    columns = _columns(rows.shape[1], layout, draw, share).to(rows.device)
    return torch.zeros_like(rows).index_copy_(1, columns, rows[:, columns])


@plugin(
    "codec",
    memory=True,
    refuses={
        "time_varying": "use a fixed graph and communication constant or every(k=2)",
        "directed": "use an undirected topology",
        "robust": "use codec bf16 or int8, or leave aggregation out",
    },
    example="choco(codec=top_k(0.01), step=0.1)",
)
def choco(
    rows: Tensor,
    layout: TensorLayout,
    draw: RngContext,
    *,
    codec: Annotated[ConfiguredPlugin, NestedPlugin("codec")] = "top_k",  # pyright: ignore
    step: Positive = 0.2,
) -> Tensor:
    """CHOCO-SGD: send q_i = C(x_i - h_i), h_i <- h_i + q_i, x_i <- x_i + step (sum
    W_ij h_j - h_i).

    What one round leaves out comes in a later one, so that any codec converges if
    ``step`` is small enough. (Koloskova, Stich & Jaggi, "Decentralized stochastic
    optimization and gossip algorithms with compressed communication", ICML 2019.)

    Args:
        rows: Rows that are sent, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        codec: What codes the differences.
        step: Share of the way towards the neighbours' public copies.
    """
    return code_rows(codec, rows, layout, draw)
