"""Codecs: what is left of a row when it is sent in fewer bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.exchange.codec.base import (
        CodecContext,
        RngContext,
        TensorLayout,
        Wire,
        as_bytes,
        coded_bytes,
        from_bytes,
        innermost,
    )

__all__ = [
    "CodecContext",
    "RngContext",
    "TensorLayout",
    "Wire",
    "as_bytes",
    "coded_bytes",
    "from_bytes",
    "innermost",
]

__getattr__ = lazy_names(
    __name__,
    {"base": __all__},
    renamed={"Draw": "RngContext", "How": "CodecContext", "Load": "TensorLayout"},
)
