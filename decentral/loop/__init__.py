"""The loop: the only one. It yields rows of metrics; recording and showing them is
the engine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.loop.rounds import log_interval, status, train

__all__ = ["log_interval", "status", "train"]

__getattr__ = lazy_names(__name__, {"rounds": __all__})
