"""When to communicate, with which batch and which learning rate: pure functions of
progress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.schedules.progress import Feedback, Progress, communication_steps

__all__ = [
    "Feedback",
    "Progress",
    "communication_steps",
]

__getattr__ = lazy_names(
    __name__, {"progress": __all__}, renamed={"slots": "communication_steps"}
)
