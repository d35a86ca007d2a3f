"""Who sends to whom in one round, and with which weights: x_i <- sum_j W_ij x_j."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.mixing.base import Mixer, Mixing, assemble
    from decentral.mixing.summary import spectral_gap

__all__ = ["Mixer", "Mixing", "assemble", "spectral_gap"]

__getattr__ = lazy_names(
    __name__, {"base": ["Mixer", "Mixing", "assemble"], "summary": ["spectral_gap"]}
)
