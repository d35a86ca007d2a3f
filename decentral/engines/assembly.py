"""What several workers deliver, put together: records of metrics, and shards of
checkpoints.

Shards are collected off the path of a step; the manifest comes last.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral.engines.workers import START_S, Workers
from decentral.errors import RunError
from decentral.run.checkpoint import Draft
from decentral.run.folder import RunFolder, explain_disk_errors
from decentral.topology.labels import NodeId

# --- records of metrics -----------------------------------------------------------


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
    records: dict[tuple[int, str], dict[int, Record]] = field(
        default_factory=dict[Any, Any]
    )
    events: list[Mapping[str, Any]] = field(default_factory=list[Any])

    def add(self, rank: int, record: Record) -> list[Record] | None:
        """Take a worker's record; return those of all workers once they are
        complete.
        """
        # The end of a run has several records at one step.
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
    trained = [
        (p["loss/train"], p["nodes/healthy"])
        for p in parts
        if p["loss/train"] is not None
    ]
    if trained:
        # A worker's loss is the mean over its nodes, which need not be equally
        # many.
        record["loss/train"] = sum(loss * n for loss, n in trained) / sum(
            n for _, n in trained
        )
    return record


# --- checkpoints ------------------------------------------------------------------


#: Bytes of one chunk where workers do not see the run folder.
CHUNK = 8 << 20

#: A worker's report of a file that it has staged.
Staged = Mapping[str, Any]


class CheckpointAssembly:
    """Collects what the workers of one attempt stage, one checkpoint at a time."""

    def __init__(self, folder: RunFolder, workers: Workers, keep: int) -> None:
        """Find out whether every worker reads and writes the run folder itself."""
        self.folder, self.workers, self.keep = folder, workers, keep
        self.shared = _is_shared(folder.path, workers)
        self.pending: Future[None] | None = None
        self.thread = ThreadPoolExecutor(1, "checkpoints")

    def save(
        self,
        staged: Sequence[Staged],
        live: Sequence[NodeId],
        epoch: int,
        counters: dict[str, Any],
    ) -> None:
        """Begin to collect the shards of a checkpoint; the one before is finished
        first.

        Args:
            staged: What every worker has staged, by rank.
            live: The ids of all nodes that take part.
            epoch: How often they have changed.
            counters: What the manifest holds beside the tensors.
        """
        # One at a time: checkpoints reach the disk in the order of their steps.
        self.finish()

        def assemble() -> None:
            draft = Draft(self.folder, staged[0]["step"], epoch)
            digests = {s["name"]: self.collect(s, draft.path / s["name"]) for s in staged}
            draft.commit(live, digests, counters, self.keep)

        self.pending = self.thread.submit(assemble)

    def finish(self) -> None:
        """Wait for the checkpoint on its way; raises what went wrong with it."""
        # Taken first, so that an error is raised once and not again by whoever asks
        # next.
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    @property
    def ready(self) -> bool:
        """Whether nothing is on its way, or it has arrived."""
        return self.pending is None or self.pending.done()

    def close(self) -> None:
        """Give up what is on its way."""
        self.thread.shutdown(wait=True, cancel_futures=True)

    def collect(self, staged: Staged, path: Path) -> str:
        """Write one staged file to a path, let the worker forget it, and return its
        digest.
        """
        rank, name = staged["rank"], staged["name"]
        with explain_disk_errors(self.folder.path):
            if self.shared:
                digest = self.workers.ask(rank, "commit", name, str(path))
            else:
                digest = self._stream(rank, name, staged["size"], path)
        self.workers.ask(rank, "discard", name)
        return digest

    def _stream(self, rank: int, name: str, size: int, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for start in range(0, size, CHUNK):
                chunk = self.workers.ask(rank, "read", name, start, CHUNK)
                digest.update(chunk)
                file.write(chunk)
            # On the disk before the manifest that names it.
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != self.workers.ask(rank, "digest", name):
            raise RunError(
                f"worker {rank} sent {name} damaged; `decentral resume` tries again."
            )
        return digest.hexdigest()


def _is_shared(folder: Path, workers: Workers) -> bool:
    """Whether a file of ours is seen by every worker, and theirs by us."""
    token = secrets.token_hex(8)
    mine = folder / f".probe-{token}"
    with explain_disk_errors(folder):
        mine.write_text(token)
    ranks = range(len(workers))
    asked = [(str(folder.resolve()), token, rank) for rank in ranks]
    theirs = [folder / f".probe-{token}-{rank}" for rank in ranks]
    try:
        seen = workers.ask_each("probe", asked, START_S)
        # Both ways: a folder of the same name on another disk would show its own
        # files.
        return all(seen) and all(path.exists() for path in theirs)
    finally:
        for path in (mine, *theirs):
            path.unlink(missing_ok=True)
