"""Workers as the process that coordinates them sees them: which nodes they host, and
what they deliver.

Nothing here knows what has started them. What changes when members are lost or
return is said in terms of nodes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from decentral.engines.contact import START_S
from decentral.errors import RunError
from decentral.merging.calibrate import unite
from decentral.network.planning import Membership, RoundPlanner, next_planner
from decentral.run.checkpoint import Checkpoint, Draft
from decentral.run.folder import RunFolder, explain_disk_errors
from decentral.topology.labels import NodeId

#: What a worker says has happened: ``what``, ``rank``, and details.
Report = Mapping[str, Any]


class Workers(Protocol):
    """The workers of one attempt, by rank; every method raises WorkersLost for
    those that are gone.

    ``steps`` are those that each has done; -1: it has not begun. ``peer_timeout_s`` is
    how long one may wait for another's message.
    """

    steps: list[int]

    @property
    def peer_timeout_s(self) -> float:
        """Return seconds."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        ...

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        """Return what one worker answers."""
        ...

    def ask_all(self, method: str, *given: Any, timeout_s: float) -> list[Any]:
        """Return what every worker answers, in order."""
        return self.ask_each(method, [given] * len(self), timeout_s)

    def ask_each(
        self, method: str, given: Sequence[tuple[Any, ...]], timeout_s: float
    ) -> list[Any]:
        """Return what every worker answers to its own question, in order.

        Args:
            method: Name of the worker's method.
            given: Arguments for each worker.
            timeout_s: Seconds to wait for all answers.
        """
        ...

    def handshake(self) -> list[dict[str, Any]]:
        """Return what every worker says of where it is, and its address there."""
        ...

    def begin(self, jobs: Iterable[Any]) -> None:
        """Give every worker its job; from now on there are reports."""
        ...

    def reports(self) -> Iterator[Report]:
        """Yield what has happened since the last call, waiting a moment for the
        first of it.
        """
        ...


# --- which nodes they host --------------------------------------------------------


State = dict[str, Tensor]


def blocks_of(nodes: int, workers: int) -> tuple[range, ...]:
    """Divide positions into contiguous blocks, the first ones larger by one where
    they must be.
    """
    sizes = [nodes // workers + (k < nodes % workers) for k in range(workers)]
    return tuple(range(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))


def label(rank: int, nodes: Sequence[NodeId]) -> str:
    """Return how a worker is called.

    >>> label(3, [12, 13, 14, 15])
    'worker 3: nodes 12-15'
    """
    breaks = [i for i in range(1, len(nodes)) if nodes[i] != nodes[i - 1] + 1]
    spans = [(nodes[a], nodes[b - 1]) for a, b in pairwise([0, *breaks, len(nodes)])]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"worker {rank}: node{'s' if len(nodes) > 1 else ''} {text}"


def sources(
    planner: RoundPlanner | None, weights: object, members: Membership, old: Membership
) -> dict[NodeId, list[NodeId]]:
    """Return whom every joiner starts from: its neighbours that were there, or
    everybody.

    Args:
        planner: What is sent when; None: nothing.
        weights: The weights as configured.
        members: The nodes of the new epoch.
        old: Those of the one before.
    """
    joiners = sorted(set(members.live) - set(old.live))
    received: dict[NodeId, set[NodeId]] = {node: set() for node in joiners}
    if planner is not None:
        topology = next_planner(planner, weights, members).mixer.topology
        # A graph that changes gives other neighbours in every round: all of them
        # count.
        for round in range(topology.period):
            links = topology.links(round)
            for receiver, sender in zip(links.receivers, links.senders, strict=True):
                node, neighbour = members.live[int(receiver)], members.live[int(sender)]
                if node in received and neighbour in old.live:
                    received[node].add(neighbour)
    return {node: sorted(found) or list(old.live) for node, found in received.items()}


def mean_state(states: Sequence[State]) -> State:
    """Return the average of nodes' rows and optimizer states; whole numbers as the
    first has them.

    x = (1/k) sum_i x_i, for the row and every tensor of the optimizer alike,
    ``step`` included. Buffers beside the rows are united as in a merged model.
    """
    found: State = {}
    for name, value in states[0].items():
        if name.startswith("integer/"):
            found[name] = unite(torch.stack([state[name] for state in states]))[0]
        elif value.is_floating_point():
            # In float64: second moments of Adam differ by many orders of magnitude.
            mean = torch.stack([state[name].double() for state in states]).mean(0)
            found[name] = mean.to(value.dtype)
        else:
            found[name] = value
    return found


def reassign(
    checkpoint: Checkpoint, members: Membership, joined: dict[NodeId, list[NodeId]]
) -> Checkpoint:
    """Return a checkpoint of the same step for other members.

    Args:
        checkpoint: The checkpoint of the epoch before.
        members: The nodes of the new one.
        joined: Whom every joiner starts from.
    """
    nodes = {node: checkpoint.nodes[node] for node in members.live if node not in joined}
    for node, neighbours in joined.items():
        nodes[node] = mean_state([checkpoint.nodes[n] for n in neighbours])
    counters = {**checkpoint.counters, "epoch": members.epoch}
    return Checkpoint(checkpoint.step, members.live, nodes, counters)


# --- what they deliver: records of metrics ----------------------------------------

#: A line of metrics.
Record = dict[str, Any]

#: Summed over workers; what else a record holds is the same on all of them.
_SUMMED = ("nodes/healthy", "nodes/training", "comm/wire_bytes")
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
        if key in record:
            record[key] = sum(part[key] for part in parts)
    for key in _AVERAGED:
        record[key] = sum(part[key] for part in parts) / len(parts)
    trained = [
        (p["loss/train"], p.get("nodes/training", p["nodes/healthy"]))
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


# --- what they deliver: shards of checkpoints -------------------------------------

#: Bytes of one chunk where workers do not see the run folder.
CHUNK = 8 << 20

#: A worker's report of a file that it has staged.
Staged = Mapping[str, Any]


class CheckpointAssembly:
    """Collects what the workers of one attempt stage, one checkpoint at a time.

    Shards are collected off the path of a step; the manifest comes last.
    """

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
                # Workers stand in other folders than this process.
                digest = self.workers.ask(rank, "commit", name, str(path.resolve()))
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
