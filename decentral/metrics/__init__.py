"""Metrics: functions ``(snapshot) -> {key: number}`` evaluated on a running block
of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.metrics.base import Forward, Scores, Snapshot, chunk_of, score

__all__ = ["Forward", "Scores", "Snapshot", "chunk_of", "score"]

__getattr__ = lazy_names(__name__, {"base": __all__})
