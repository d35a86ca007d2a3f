"""Faults: what goes wrong in a run, and when: pure functions of (seed,
communication step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.faults.base import (
        KINDS,
        Bools,
        Fault,
        Faults,
        network_faults,
        worker_faults,
    )

__all__ = [
    "KINDS",
    "Bools",
    "Fault",
    "Faults",
    "network_faults",
    "worker_faults",
]

__getattr__ = lazy_names(__name__, {"base": __all__})
