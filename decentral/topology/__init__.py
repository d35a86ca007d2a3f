"""Topologies: functions that say who may send to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.topology.base import Links, Sizes, Topology, statistics

__all__ = ["Links", "Sizes", "Topology", "statistics"]

__getattr__ = lazy_names(__name__, {"base": __all__})
