"""Faults: what goes wrong in a run, and when; all of it a pure function of (seed, slot)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.faults.base import Bools, Faults, network_faults, worker_faults
    from decentral.faults.workers import KINDS, Fault

__all__ = [
    "KINDS",
    "Bools",
    "Fault",
    "Faults",
    "network_faults",
    "worker_faults",
]

__getattr__ = lazy_names(
    __name__,
    {
        "base": ["Bools", "Faults", "network_faults", "worker_faults"],
        "workers": ["Fault", "KINDS"],
    },
)
