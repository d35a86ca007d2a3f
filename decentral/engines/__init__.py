"""Engines: how workers are started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.engines.local import engine_of

__all__ = [
    "engine_of",
]

__getattr__ = lazy_names(__name__, {"local": __all__})
