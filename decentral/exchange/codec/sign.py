"""One bit a number."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from decentral.exchange.codec import Draw, How, Load, Wire, as_bytes, from_bytes
from decentral.registry import plugin


def _places(like: Tensor) -> Tensor:
    """Return the places of bits in a byte."""
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _pack(rows: Tensor, coded: Tensor, how: How) -> Tensor:
    numbers = coded[:, how.load.columns]
    count = ceil(how.load.numbers / 8)
    minus = torch.zeros(len(coded), count * 8, dtype=torch.uint8, device=coded.device)
    minus[:, : how.load.numbers] = numbers < 0
    bits = minus.view(-1, count, 8) << _places(coded)
    magnitude = numbers.abs().amax(1, keepdim=True)
    return torch.cat([as_bytes(magnitude), bits.sum(2, dtype=torch.uint8)], 1)


def _unpack(packed: Tensor, like: Tensor, how: How) -> Tensor:
    head = like.element_size()
    magnitude = from_bytes(packed[:, :head], like.dtype)
    bits = packed[:, head:, None] >> _places(packed) & 1
    minus = bits.flatten(1)[:, : how.load.numbers].to(like)
    found = like.new_zeros(len(packed), like.shape[1])
    found[:, how.load.columns] = magnitude * (1 - 2 * minus)
    return found


@plugin(
    "codec",
    biased=True,
    size=lambda load, settings: ceil(load.numbers / 8) + 4,
    wire=Wire(_pack, _unpack),
)
def sign(rows: Tensor, load: Load, draw: Draw) -> Tensor:
    """Keep one bit a number and one magnitude: mean|x| times the signs of x, 0 counting as +.

    Only for differences: ``choco(sign)``. (Karimireddy et al., "Error feedback fixes SignSGD",
    ICML 2019.)
    """
    numbers = rows[:, load.columns]
    magnitude = numbers.abs().sum(1, keepdim=True) / load.numbers
    coded = torch.zeros_like(rows)
    coded[:, load.columns] = torch.where(numbers < 0, -magnitude, magnitude)
    return coded
