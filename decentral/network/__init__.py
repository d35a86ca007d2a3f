"""What is sent over which network, in every communication step: known before
anything runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.network.planning import (
        Planned,
        RoundAction,
        RoundPlanner,
        Size,
        all_reduce_messages,
        expected_bytes,
        expected_messages,
        preview,
    )

__all__ = [
    "Planned",
    "RoundAction",
    "RoundPlanner",
    "Size",
    "all_reduce_messages",
    "expected_bytes",
    "expected_messages",
    "preview",
]

__getattr__ = lazy_names(
    __name__,
    {"planning": __all__},
    renamed={"Act": "RoundAction", "Conversation": "RoundPlanner"},
)
