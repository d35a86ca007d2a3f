"""Claims: what a paper says, as an experiment that runs and can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.claims.base import (
        FAILS,
        HOLDS,
        OPEN,
        PARTLY,
        UNFIT,
        Curve,
        Expectation,
        Findings,
        Lab,
        Panel,
        heart,
        verdict,
    )

__all__ = [
    "FAILS",
    "HOLDS",
    "OPEN",
    "PARTLY",
    "UNFIT",
    "Curve",
    "Expectation",
    "Findings",
    "Lab",
    "Panel",
    "heart",
    "verdict",
]

__getattr__ = lazy_names(__name__, {"base": __all__})
