"""Codecs: what is left of a row when it is sent in fewer bytes.

A codec is a function ``(rows, load, draw) -> rows``: rows [n, k] as they are decoded again; row i
depends on row i only, and randomness on ``draw`` only. Nodes then move by what was heard, x_i <-
x_i + sum_j W_ij C(x_j) - C(x_i), which keeps the mean whatever is lost. Traits:

- ``size``: a function ``(load, settings)`` that returns the bytes of a coded row;
- ``biased``: rows lose too much to be averaged as they are; ``choco`` must send differences;
- ``memory``: what everybody knows of a row is remembered, and only news are coded;
- ``refuses``: as for algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from decentral.registry import Bound


@dataclass(frozen=True)
class Load:
    """What a coded channel holds: ``(start, stop, shape)`` of every tensor in a row."""

    tensors: tuple[tuple[int, int, tuple[int, ...]], ...]
    itemsize: int

    @property
    def numbers(self) -> int:
        """How many numbers a row holds, padding apart."""
        return sum(prod(shape) for _, _, shape in self.tensors)

    def share(self, share: float) -> int:
        """Return how many numbers are a share of all, at least one."""
        return max(1, ceil(share * self.numbers))


@dataclass(frozen=True)
class Draw:
    """What randomness may depend on: one stream for each channel."""

    seed: int
    purpose: str
    round: int
    nodes: Sequence[int]


def coded_bytes(codec: Bound, load: Load) -> int:
    """Return the logical bytes of one coded row."""
    inner = codec.settings.get("codec")
    if isinstance(inner, Bound):
        return coded_bytes(inner, load)
    return int(codec.plugin.traits["size"](load, codec.settings))
