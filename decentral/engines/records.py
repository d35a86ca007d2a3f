"""Records of metrics from several workers, combined into those of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: A line of metrics.
Record = dict[str, Any]

#: Summed over workers; what else a record holds is the same on all of them.
_SUMMED = ("nodes/healthy", "comm/wire_bytes")
#: Averaged over workers.
_AVERAGED = ("time/compute_s", "time/wait_s", "time/mix_s")


@dataclass
class RecordAssembly:
    """Records and events on their way, until every worker has reported its part."""

    workers: int
    records: dict[tuple[int, str], dict[int, Record]] = field(default_factory=dict[Any, Any])
    events: list[Mapping[str, Any]] = field(default_factory=list[Any])

    def add(self, rank: int, record: Record) -> list[Record] | None:
        """Take a worker's record; return those of all workers once they are complete."""
        key = record["step"], record.get("phase", "")
        parts = self.records.setdefault(key, {})
        parts[rank] = record
        if len(parts) < self.workers:
            return None
        del self.records[key]
        return [parts[worker] for worker in range(self.workers)]

    def due(self, step: int) -> list[Mapping[str, Any]]:
        """Take the events up to a step."""
        found = [event for event in self.events if event["details"]["step"] <= step]
        self.events = [event for event in self.events if event["details"]["step"] > step]
        return found


def combine(parts: list[Record]) -> Record:
    """Return the record of a run from those of its workers."""
    record = dict(parts[0])
    for key in _SUMMED:
        record[key] = sum(part[key] for part in parts)
    for key in _AVERAGED:
        record[key] = sum(part[key] for part in parts) / len(parts)
    trained = [(p["loss/train"], p["nodes/healthy"]) for p in parts if p["loss/train"] is not None]
    if trained:
        record["loss/train"] = sum(loss * n for loss, n in trained) / sum(n for _, n in trained)
    return record
