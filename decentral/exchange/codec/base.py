"""Codecs: what is left of a row when it is sent in fewer bytes.

A codec is a function ``(rows, layout, draw) -> rows``: rows [n, k] as they are
decoded again; row i depends on row i only, and randomness on ``draw`` only. Nodes
then move by what was received, x_i <- x_i + sum_j W_ij C(x_j) - C(x_i), which keeps
the mean whatever is lost. What a codec promises, and how coded rows travel, stands
in ``traits.CodecTraits``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, prod
from typing import Any

import torch
from torch import Tensor

from decentral.errors import ConfigError
from decentral.plugins import describe, is_users, wrong
from decentral.registry import ConfiguredPlugin
from decentral.topology.labels import NodeId
from decentral.traits import CodecTraits, traits_of
from decentral.traits import Wire as Wire


@dataclass(frozen=True)
class TensorLayout:
    """What a coded channel holds: ``(start, stop, shape)`` of every tensor in a
    row.
    """

    tensors: tuple[tuple[int, int, tuple[int, ...]], ...]
    itemsize: int

    @property
    def numbers(self) -> int:
        """How many numbers a row holds, padding apart."""
        return sum(prod(shape) for _, _, shape in self.tensors)

    @property
    def columns(self) -> Tensor:
        """The columns of a row that hold numbers, padding left out."""
        return torch.cat([torch.arange(start, stop) for start, stop, _ in self.tensors])

    def share(self, share: float) -> int:
        """Return how many numbers are a share of all, at least one."""
        return max(1, ceil(share * self.numbers))


@dataclass(frozen=True)
class RngContext:
    """What randomness may depend on: one stream for each channel."""

    seed: int
    purpose: str
    round: int
    nodes: Sequence[NodeId]


@dataclass(frozen=True)
class CodecContext:
    """What both ends of a wire know: the layout, the round, and the settings of the
    codec.
    """

    layout: TensorLayout
    draw: RngContext
    settings: Mapping[str, Any]


def innermost(codec: ConfiguredPlugin) -> ConfiguredPlugin:
    """Return the codec by which numbers are coded in the end."""
    inner = codec.settings.get("codec")
    return innermost(inner) if isinstance(inner, ConfiguredPlugin) else codec


def as_bytes(values: Tensor) -> Tensor:
    """Return numbers [n, k] as uint8 [n, b]."""
    return values.contiguous().view(torch.uint8)


def from_bytes(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 [n, b] as numbers [n, k]."""
    # A copy: rows of bytes that arrive need not begin where numbers of that type
    # may, and views would refuse.
    return packed.clone(memory_format=torch.contiguous_format).view(dtype)


def code_rows(
    codec: ConfiguredPlugin, rows: Tensor, layout: TensorLayout, draw: RngContext
) -> Tensor:
    """Return rows [n, k] as a codec decodes them again, if it gives rows for rows.

    Args:
        codec: The codec.
        rows: The rows, [n, k].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
    """
    found = codec(rows, layout, draw)
    expected = f"rows of shape {list(rows.shape)} and type {rows.dtype}, as it was given"
    if not isinstance(found, Tensor) or found.shape != rows.shape:
        raise wrong(codec, describe(found), expected)
    if found.dtype != rows.dtype:
        raise wrong(codec, f"rows of type {found.dtype}", expected)
    # What is shipped is looked at by the laws; to look at every number would cost
    # it time.
    if is_users(codec) and not torch.isfinite(found).all() and torch.isfinite(rows).all():
        raise wrong(
            codec, "rows with NaN or infinite numbers", "finite ones for finite ones"
        )
    return found


def coded_bytes(codec: ConfiguredPlugin, layout: TensorLayout) -> int:
    """Return the logical bytes of one coded row."""
    # A codec around another, such as ``choco``, changes what is coded and not how
    # long it is.
    inner = innermost(codec)
    size = traits_of(inner, CodecTraits).size
    if size is None:
        return layout.numbers * layout.itemsize
    count: Any = size(layout, inner.settings)
    if (
        isinstance(count, bool)
        or not isinstance(count, int | float)
        or not 0 <= count < inf
    ):
        raise wrong(
            inner, f"{describe(count)} by its trait size", "the bytes of a coded row"
        )
    return int(count)


def refuse_biased(codec: ConfiguredPlugin) -> None:
    """Raise ConfigError for a codec that needs differences, where models are sent."""
    if traits_of(codec, CodecTraits).biased:
        raise ConfigError(
            f"codec {codec.name!r} loses too much for models to be averaged; send differences, by "
            f"codec='choco({codec.name})'."
        )


def refuse_coding(codec: ConfiguredPlugin, who: str) -> None:
    """Raise ConfigError for a codec where nothing is coded; ``who`` sends no gossip."""
    if not traits_of(codec, CodecTraits).uncoded:
        raise ConfigError(f"{who} takes no codec: only gossip is coded; leave codec out.")
