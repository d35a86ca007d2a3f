"""Decentralized algorithms: what a node does in a step, and what it does with what
it received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.algorithms.base import (
        CONDITIONS,
        Block,
        StateSchema,
        channels_of,
        paper_of,
        rows_of,
    )

__all__ = [
    "CONDITIONS",
    "Block",
    "StateSchema",
    "channels_of",
    "paper_of",
    "rows_of",
]

__getattr__ = lazy_names(__name__, {"base": __all__}, renamed={"Kept": "StateSchema"})
