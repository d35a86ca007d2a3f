"""Turning all rows into one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.merging.base import Models, in_a_run, merge_models, merge_weights

__all__ = [
    "Models",
    "in_a_run",
    "merge_models",
    "merge_weights",
]

__getattr__ = lazy_names(__name__, {"base": __all__})
