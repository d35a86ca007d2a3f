"""A worker: one block of nodes, trained by the one loop, seen by the coordinator as
reports.
"""

from __future__ import annotations

import ctypes
import hashlib
import queue
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from decentral import userfile
from decentral.blame import attribute
from decentral.config import Config, foreign_parts
from decentral.engines.base import checkpoint_interval
from decentral.engines.workers import Report
from decentral.errors import RunError, exit_place
from decentral.exchange.base import LostPeer, Rendezvous
from decentral.exchange.process_group import ProcessGroupExchange
from decentral.faults.base import Fault
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
from decentral.loop.rounds import checkpoint_of, restore, train
from decentral.network.planning import Membership
from decentral.process import OwnFolder
from decentral.run.checkpoint import (
    Checkpoint,
    restoring,
    shard_bytes,
    shard_name,
    write_synced,
)

#: Seconds between two looks at what a worker has computed, and the share of them that
#: its thread must have used: whoever waits for others uses none.
LOOK_S, BUSY = 1.0, 0.05
#: Numbers on the wire by ``wire``; None: as they are.
WIRE = {"same": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """What a worker is asked to do."""

    config: Config  # every ``auto`` decided
    files: Mapping[str, bytes]  # the user's own, by the driver's paths
    members: Membership
    blocks: tuple[range, ...]  # positions of every worker
    rendezvous: Rendezvous
    checkpoint: Checkpoint | None  # with the tensors of this worker's nodes
    faults: tuple[Fault, ...]


class Worker:
    """A block at work in a process of its own.

    ``work`` runs in the actor's main thread; everything else is called from others.
    """

    def __init__(self, job: Job) -> None:
        """Take a job; ``work`` does it."""
        self.job, self.rank = job, job.rendezvous.rank
        self.step = -1
        # Bytes, not tensors: training goes on while the coordinator collects them.
        self.staged: dict[str, bytes] = {}
        self.changed = threading.Condition()
        self.limit: int | None = None  # the step to hold at
        self.saving = False
        self.effort: Effort | None = None
        self.unread: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.faults = [f for f in job.faults if f.worker == self.rank]

    # --- what the coordinator asks ------------------------------------------------

    def reports(self, wait_s: float) -> tuple[int, list[Report]]:
        """Return the step that is done and all reports; waits ``wait_s`` at most
        for the first.

        A worker with nothing else to say reports that it computes: an evaluation or a
        merge may take longer than any limit for a step.
        """
        found: list[Report] = []
        try:
            found.append(self.unread.get(timeout=wait_s))
            while True:
                found.append(self.unread.get_nowait())
        except queue.Empty:
            if not found and self.effort and self.effort.shows():
                found.append({"what": "computes", "rank": self.rank})
            return self.step, found

    def hold(self, step: int) -> int:
        """Stop at ``step``, or at once if it is past; return the step that is done."""
        with self.changed:
            # The worker may be past that step already: the answer tells, and a
            # later one is tried.
            self.limit = max(step, self.step)
            self.changed.notify_all()
            return self.step

    def save(self) -> None:
        """Stage a checkpoint of the step that is held, and go no further."""
        with self.changed:
            self.saving = True
            self.changed.notify_all()

    def commit(self, name: str, path: Path) -> str:
        """Write a staged file; return its digest."""
        return write_synced(path, self.staged[name])

    def digest(self, name: str) -> str:
        """Return the digest of a staged file."""
        return hashlib.sha256(self.staged[name]).hexdigest()

    def discard(self, name: str) -> None:
        """Forget a staged file."""
        with self.changed:
            del self.staged[name]
            self.changed.notify_all()

    # --- the work -----------------------------------------------------------------

    def work(self) -> None:
        """Train to the end; the user's mistakes and lost peers are reports like any
        other.
        """
        self.effort = Effort()
        try:
            self._work()
        except (Exception, SystemExit) as error:
            self._report("failed", **describe_error(error, self.job.config))

    def _work(self) -> None:
        with ExitStack() as stack:
            if self.job.files:
                # They stay until the end: functions may import or read them at any
                # time. The driver takes this process down by a kill, so that a
                # folder that only this process removes would be left.
                folder = stack.enter_context(OwnFolder("decentral-"))
                stack.enter_context(userfile.unpacked(self.job.files, folder))
            self._run()

    def _run(self) -> None:
        job, config = self.job, self.job.config
        setup = prepare(config)
        configure_process(int(config.threads))
        wire, ordered = WIRE[config.engine.wire], config.mixing == "ordered"
        self.exchange = ProcessGroupExchange(
            job.rendezvous, job.blocks, setup.device, ordered=ordered, wire=wire
        )
        self.block = Block(setup, self.exchange, self._announce, job.members)
        if job.checkpoint is not None:
            with restoring(job.checkpoint.step):
                restore(self.block, job.checkpoint)
            self.block.stats.wire_bytes *= self.rank == 0  # the sum of all workers
        self.step = self.block.step
        self._report("began", step=self.step)
        self._train(Evaluator(self.block))
        self.exchange.close()

    def _train(self, evaluator: Evaluator) -> None:
        every = checkpoint_interval(self.job.config)
        watch = Stopwatch(self.exchange)
        if self.job.checkpoint is None:
            self._stage_shard()
        for row in train(self.block, evaluator):
            self.step = self.block.step
            # Most steps have nothing to say but their number, which polls return
            # anyway.
            if len(row) > 1:
                self._report("row", row=row | watch.lap(self.step))
            # The rows of the end all have the same step, whose checkpoint comes
            # behind the loop.
            if self.step and self.step % every == 0 and not self.block.is_over:
                self._stage_shard()
            self._pause()
        if self.rank == 0:
            self._stage("merged.safetensors", save_tensors(evaluator.merged_state()))
        else:
            evaluator.merged_state()  # the merge takes all workers
        self._stage_shard()
        self._report("done")

    def _report(self, what: str, **details: Any) -> None:
        self.unread.put({"what": what, "rank": self.rank, **details})

    def _announce(self, event: str, details: dict[str, Any]) -> None:
        if self.rank == 0:  # every worker knows the same
            self._report("event", event=event, details=details)

    def _stage(self, name: str, data: bytes, **details: Any) -> None:
        with self.changed:
            self.staged[name] = data
        self._report("staged", name=name, size=len(data), **details)

    def _stage_shard(self) -> None:
        """Stage this block's part of a checkpoint, once the one before was
        collected.
        """
        name = shard_name(self.rank)
        with self.changed:
            # At most one shard waits here: a slow disk slows training down, memory
            # stays bounded.
            self.changed.wait_for(lambda: name not in self.staged)
        checkpoint = checkpoint_of(self.block)
        data = shard_bytes(checkpoint)
        self._stage(name, data, step=checkpoint.step, counters=checkpoint.counters)

    def _pause(self) -> None:
        """Inject failures that are due, and stop where the coordinator asks for it."""
        for fault in self.faults:
            if fault.step == self.step:
                fault.inject()
        with self.changed:
            # A run that is about to end is not held: what it has to save comes
            # next.
            if self.limit is None or self.step < self.limit or self.block.is_over:
                return
        self._report("held", step=self.step)
        with self.changed:
            self.changed.wait_for(lambda: self.saving or (self.limit or 0) > self.step)
        if self.saving:
            self._stage_shard()
            threading.Event().wait()  # the driver takes this process down


class Effort:
    """Whether a thread computes, seen from another one: by the processor's time."""

    def __init__(self) -> None:
        """Look at the thread that calls."""
        # Not on macOS; of a thread that has ended, its clock is none.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self.clock = clock_of(threading.get_ident()) if clock_of else None
        self.looked_s, self.used_s = time.monotonic(), 0.0
        self.used_s = self._used()

    def _used(self) -> float:
        if self.clock is None:
            return 0.0
        with suppress(OSError):
            return time.clock_gettime(self.clock)
        return self.used_s

    def shows(self) -> bool:
        """Return whether it has computed since the last look, at least ``LOOK_S`` ago;
        False before that, and where nobody can tell.
        """
        now_s = time.monotonic()
        if now_s - self.looked_s < LOOK_S:
            return False
        used_s = self._used()
        share = (used_s - self.used_s) / (now_s - self.looked_s)
        self.looked_s, self.used_s = now_s, used_s
        return share >= BUSY


class Stopwatch:
    """Seconds per step since the last look: computing, waiting for peers, mixing."""

    def __init__(self, exchange: ProcessGroupExchange) -> None:
        """Begin."""
        self.exchange, self.step = exchange, 0
        self.marks = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self.exchange.wait_s, self.exchange.mix_s

    def lap(self, step: int) -> dict[str, float]:
        """Return the means since the last look."""
        now = self._now()
        total, wait, mix = (a - b for a, b in zip(now, self.marks, strict=True))
        steps = max(1, step - self.step)
        self.marks, self.step = now, step
        parts = {"compute": total - wait - mix, "wait": wait, "mix": mix}
        return {
            f"time/{part}_s": round(max(0.0, s) / steps, 7) for part, s in parts.items()
        }


def describe_error(error: Exception | SystemExit, config: Config) -> dict[str, Any]:
    """Return an error as a report, with all it knows: whose it is, the file and the
    line.
    """
    if isinstance(error, LostPeer):
        return {"kind": "lost", "text": str(error)}
    if isinstance(error, SystemExit):
        return {
            "kind": "error",
            "error": RunError(f"{exit_place(error)}; let it raise an error."),
        }
    return {"kind": "error", "error": attribute(error, foreign_parts(config))}


# --- its process ------------------------------------------------------------------

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that glibc accepts for the second, and freed bytes that may be kept.
_LARGEST_BLOCK, _KEPT = 32 << 20, 1 << 30


def configure_process(threads: int) -> None:
    """Use ``threads`` cores, and keep freed memory for the next step.

    By default glibc returns large freed blocks to the kernel at once, and the next
    step faults their pages in again: a third of the time of a step of 16 small
    convolutional networks.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
