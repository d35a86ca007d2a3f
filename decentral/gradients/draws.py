"""Draws on the device of a batch: pure functions of each sample's key."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

_MASK = (1 << 63) - 1
_M1, _M2 = 0x3F58476D1CE4E5B9, 0x14D049BB133111EB

#: Streams of the methods; those of dropout layers are their indices, from 0.
CHANCE, CLASS, NOISE, ANGLE, ATTACK = ((1 << 20) + place for place in range(5))


def hashed(value: Tensor) -> Tensor:
    """Return 63 bits that look random for every int64, the same for the same."""
    value = (value ^ (value >> 30)) * _M1
    value = (value ^ (value >> 27)) * _M2
    return (value ^ (value >> 31)) & _MASK


def uniform(keys: Tensor, size: int, stream: int) -> Tensor:
    """Return ``size`` float64 in [0, 1) for every key of a sample's visit, [*keys, size].

    Draws of one stream are the same each time; those of different streams are independent.
    """
    place = torch.arange(size, device=keys.device) + stream * (1 << 32)
    return hashed(hashed(keys).unsqueeze(-1) + place).to(torch.float64) / float(1 << 63)


def normal(keys: Tensor, size: int) -> Tensor:
    """Return ``size`` standard normal float64 for every key (Box-Muller), [*keys, size]."""
    radius = (1.0 - uniform(keys, size, NOISE)).clamp_min(2.0**-63)
    return (-2.0 * radius.log()).sqrt() * (2.0 * pi * uniform(keys, size, ANGLE)).cos()
