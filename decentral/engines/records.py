"""Rows of metrics from several workers, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

#: Summed over workers; what else a row holds is the same on all of them.
_SUMMED = ("nodes/healthy", "comm/wire_bytes")
#: Averaged over workers.
_AVERAGED = ("time/compute_s", "time/wait_s", "time/mix_s")


@dataclass
class Assembly:
    """Rows and events on their way, until every worker has told its part."""

    workers: int
    rows: dict[tuple[int, str], dict[int, Row]] = field(default_factory=dict[Any, Any])
    events: list[Mapping[str, Any]] = field(default_factory=list[Any])

    def row(self, rank: int, row: Row) -> list[Row] | None:
        """Take a worker's row; return the rows of all workers once they are complete."""
        key = row["step"], row.get("phase", "")
        parts = self.rows.setdefault(key, {})
        parts[rank] = row
        if len(parts) < self.workers:
            return None
        del self.rows[key]
        return [parts[worker] for worker in range(self.workers)]

    def due(self, step: int) -> list[Mapping[str, Any]]:
        """Take the events up to a step."""
        found = [event for event in self.events if event["details"]["step"] <= step]
        self.events = [event for event in self.events if event["details"]["step"] > step]
        return found


def whole(parts: list[Row]) -> Row:
    """Return the row of a run from those of its workers."""
    row = dict(parts[0])
    for key in _SUMMED:
        row[key] = sum(part[key] for part in parts)
    for key in _AVERAGED:
        row[key] = sum(part[key] for part in parts) / len(parts)
    trained = [(p["loss/train"], p["nodes/healthy"]) for p in parts if p["loss/train"] is not None]
    if trained:
        row["loss/train"] = sum(loss * n for loss, n in trained) / sum(n for _, n in trained)
    return row
