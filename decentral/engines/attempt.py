"""One attempt at a run: workers followed from the first handshake to the end, or to
a loss.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from decentral import userfile
from decentral.config import Config
from decentral.engines.base import EngineRun, Watch
from decentral.engines.contact import REACH_S, WorkersLost, apart, tell_apart
from decentral.engines.workers import (
    CheckpointAssembly,
    RecordAssembly,
    Report,
    Workers,
    combine,
)
from decentral.errors import ConfigError
from decentral.exchange.base import Rendezvous
from decentral.faults.base import Fault
from decentral.loop.rounds import has_news
from decentral.network.planning import Membership
from decentral.run.checkpoint import Checkpoint, Saved, shard_name
from decentral.run.folder import RunFolder, environment
from decentral.trust import confirm

if TYPE_CHECKING:  # it loads torch.distributed, which this process does not need
    from decentral.engines.worker import Job

#: Seconds between two times that gauges are set, whether there are reports or not.
REPEAT_S = 5.0
#: Steps that workers may do until a request to hold reaches them, in seconds of
#: training.
HOLD_S = 0.5


class Rejoin(Exception):
    """There is room again for nodes that were lost."""


class Gauges(Protocol):
    """Whoever shows the numbers of a run while it goes on."""

    def record(
        self, record: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Show a record of the run, and every worker's own times."""
        ...

    def repeat(self) -> None:
        """Show everything again."""
        ...


@dataclass(frozen=True)
class Start:
    """Where the workers of an attempt begin."""

    members: Membership
    blocks: tuple[range, ...]  # the positions that each worker hosts
    saved: Saved | None
    faults: tuple[Fault, ...]
    number: int  # of attempts before this one


@dataclass
class Attempt:
    """What the coordinator does while workers train: it takes no part in a step.

    ``can_rejoin`` says, whenever a checkpoint is complete, whether lost nodes could
    return there.
    """

    run: EngineRun
    workers: Workers
    start: Start
    gauges: Gauges
    watch: Watch
    stopping: threading.Event
    can_rejoin: Callable[[], bool]
    merged: Report | None = None
    begun: set[int] = field(default_factory=set[int])
    done: set[int] = field(default_factory=set[int])
    hold_at: int | None = None
    held: set[int] = field(default_factory=set[int])

    def __post_init__(self) -> None:
        """Wait for the first records."""
        self.records = RecordAssembly(len(self.workers))
        self.shards: dict[int, dict[int, Report]] = {}
        self.repeated_s = time.monotonic()

    def follow(self) -> None:
        """Let the workers train to the end; raises WorkersLost, Rejoin, or what
        stopped the run.
        """
        self._introduce()
        keep = self.run.setup.config.keep_checkpoints
        self.checkpoints = CheckpointAssembly(self.run.folder, self.workers, keep)
        try:
            while len(self.done) < len(self.workers):
                for report in self.workers.reports():
                    getattr(self, f"_on_{report['what']}")(report)
                self._repeat()
                if self.checkpoints.ready:
                    self._finish_checkpoint()
                if self.stopping.is_set():
                    self._hold()
            self._finish()
        finally:
            self.checkpoints.close()

    # --- the beginning ------------------------------------------------------------

    def _introduce(self) -> None:
        """Introduce the workers to each other and give them their jobs."""
        hosts = self.workers.handshake()
        check_versions(hosts)
        addresses = [host["address"] for host in hosts]
        port = self.workers.ask(0, "open_store", addresses[0])
        self._describe(addresses)
        self.workers.begin(self._job(each) for each in self._rendezvous(addresses, port))

    def _rendezvous(self, addresses: Sequence[str], port: int) -> list[Rendezvous]:
        """Return how every worker finds the others."""
        setup = self.run.setup
        # NCCL waits where nobody sees it, and has to end by itself.
        alone = setup.device.type == "cuda"
        own_s = setup.config.engine.progress_s
        return [
            Rendezvous(
                rank=rank,
                world=len(addresses),
                store=(addresses[0], port),
                address=address,
                timeout_s=own_s if alone else self.workers.peer_timeout_s,
                # New for every attempt: leftovers of the one before must not be
                # taken for peers.
                prefix=f"epoch-{self.start.members.epoch}/attempt-{self.start.number}",
            )
            for rank, address in enumerate(addresses)
        ]

    def _job(self, rendezvous: Rendezvous) -> Job:
        """Return what a worker is asked to do, every ``auto`` decided."""
        from decentral.engines.worker import Job

        run, start = self.run, self.start
        # What others wrote was allowed as it was, maybe hours ago.
        confirm(run.setup.config.approved)
        # Decided once, by the driver: workers that decided for themselves could
        # differ.
        decided = {
            "replicas": run.replicas,
            "threads": run.threads,
            "device": run.setup.device.type,
            "compute": run.settings["compute"] or "auto",
        }
        return Job(
            config=run.setup.config.model_copy(update=decided),
            files=userfile.opened_files(),
            members=start.members,
            blocks=start.blocks,
            rendezvous=rendezvous,
            checkpoint=self._part(rendezvous.rank),
            faults=start.faults,
        )

    def _describe(self, addresses: Sequence[str]) -> None:
        found = environment(
            str(self.run.setup.device), self.run.threads, self.run.folder.path
        )
        hosts = list(dict.fromkeys(addresses))
        self.run.folder.write_json(
            "env.json", found | {"hosts": hosts, "workers": addresses}
        )

    def _part(self, rank: int) -> Checkpoint | None:
        """Return what a worker needs of the checkpoint that the run goes on from."""
        start = self.start
        if start.saved is None:
            return None
        return start.saved.load(
            {start.members.live[place] for place in start.blocks[rank]}
        )

    # --- reports ------------------------------------------------------------------

    def _on_row(self, report: Report) -> None:
        parts = self.records.add(report["rank"], report["row"])
        if parts is not None:
            record = combine(parts)
            # Events of a step come before its record, as in a run of one process.
            self._announce(self.records.due(record["step"]))
            if has_news(record):
                self.run.record(record, self.watch)
            self.gauges.record(record, parts)

    def _on_event(self, report: Report) -> None:
        self.records.events.append(report)

    def _announce(self, events: Sequence[Report]) -> None:
        for event in events:
            self.run.announce(event["event"], event["details"])

    def _on_staged(self, report: Report) -> None:
        if report["name"] != shard_name(report["rank"]):
            self.merged = report
            return
        shards = self.shards.setdefault(report["step"], {})
        shards[report["rank"]] = report
        if len(shards) == len(self.workers):
            staged = [shards[rank] for rank in range(len(shards))]
            del self.shards[report["step"]]
            self._save(staged)

    def _save(self, staged: Sequence[Report]) -> None:
        """Collect the shards of a step that all workers have staged."""
        run, step, members = self.run, staged[0]["step"], self.start.members
        self._announce(self.records.due(step))
        # The event has to lie before the offsets that this checkpoint remembers.
        if self.hold_at == step:
            run.announce("interrupted", {"step": step})
        # All workers count the same, but for what each of them has put on the wire.
        counters = dict(staged[0]["counters"])
        wire = sum(report["counters"]["ledger"]["wire_bytes"] for report in staged)
        counters["ledger"] = {**counters["ledger"], "wire_bytes": wire}
        counters |= run.position()
        self.checkpoints.save(staged, members.live, members.epoch, counters)
        if self.hold_at == step:
            self.checkpoints.finish()
            raise run.interruption()

    def _finish_checkpoint(self) -> None:
        """Look at a checkpoint that has arrived, and whether lost nodes could
        return there.
        """
        arrived = self.checkpoints.pending is not None
        self.checkpoints.finish()
        if arrived and self.can_rejoin():
            raise Rejoin

    def _repeat(self) -> None:
        """Keep the gauges alive between rare evaluations."""
        if time.monotonic() - self.repeated_s > REPEAT_S:
            self.repeated_s = time.monotonic()
            self.gauges.repeat()

    def _on_computes(self, report: Report) -> None:
        """Do nothing: that it came has told the clocks that the worker gets on."""

    def _on_began(self, report: Report) -> None:
        self.begun.add(report["rank"])

    def _on_failed(self, report: Report) -> None:
        # A worker that is done may fail when it closes its connections: that is no
        # loss.
        if report["rank"] in self.done:
            return
        if report["kind"] == "lost":
            raise WorkersLost([], report["text"].rstrip("."), self.workers.step)
        raise report["error"]

    def _on_done(self, report: Report) -> None:
        self.done.add(report["rank"])

    # --- the end ------------------------------------------------------------------

    def _hold(self) -> None:
        """Let all workers stop at one step, soon."""
        if self.hold_at is not None:
            return
        if len(self.begun) < len(self.workers):  # what there is to save was saved before
            self.run.announce("interrupted", {"step": self.run.step})
            raise self.run.interruption()
        timeout_s = self.run.setup.config.engine.progress_s
        steps_per_s = self.workers.step / max(self.run.elapsed_s, 1e-9)
        # Ahead of all of them: a worker that stopped before the others would leave
        # them waiting for its rows. Who has passed the step by then makes it try a
        # later one.
        step = max(self.workers.steps) + 2 + int(HOLD_S * steps_per_s)
        while True:
            stood = max(self.workers.ask_all("hold", step, timeout_s=timeout_s))
            if stood < step:
                break
            step = stood + 2 + int(HOLD_S * steps_per_s)
        self.hold_at, self.held = step, set()

    def _on_held(self, report: Report) -> None:
        if report["step"] == self.hold_at:
            self.held.add(report["rank"])
        if len(self.held) == len(self.workers):
            self.workers.ask_all(
                "save", timeout_s=self.run.setup.config.engine.liveness_s
            )

    def _finish(self) -> None:
        """Take over the merged model and the last checkpoint."""
        self.checkpoints.finish()
        self._announce(self.records.due(self.run.setup.config.steps))
        assert self.merged is not None
        temporary = self.run.folder.path / ".merged.safetensors.tmp"
        self.checkpoints.collect(self.merged, temporary)
        # Renamed when complete: whoever reads meanwhile finds a whole file or none.
        temporary.replace(self.run.folder.path / "merged.safetensors")


def ask_reach(
    workers: Workers, addresses: Sequence[str], timeout_s: float
) -> list[list[bool]]:
    """Return for every worker whom it reaches, itself included.

    Raises WorkersLost for those that do not answer.

    Args:
        workers: Of an attempt that has lost contact.
        addresses: Of each of them.
        timeout_s: Seconds to wait for an answer, beside those that ways may take.
    """
    ports = workers.ask_all("listen", timeout_s=timeout_s)
    places = list(zip(addresses, ports, strict=True))
    asked = [(places,)] * len(places)
    return workers.ask_each("reach", asked, REACH_S + timeout_s)


def find_apart(
    workers: Workers,
    addresses: Sequence[str],
    start: Start,
    config: Config,
    lost: WorkersLost,
) -> WorkersLost:
    """Return whom to leave out where all workers answer, and some of them do not reach
    each other; else what was known of the loss.

    Args:
        workers: Of the attempt.
        addresses: Of each of them.
        start: Where they began.
        config: Of the run.
        lost: The loss of contact.
    """
    try:
        reach = ask_reach(workers, addresses, config.engine.liveness_s)
    except WorkersLost as silent:  # they are what was lost
        return WorkersLost(silent.ranks, silent.cause, lost.step)
    out = apart(reach, [len(block) for block in start.blocks])
    return WorkersLost([*out], tell_apart(out), lost.step, out) if out else lost


def recorded_losses(folder: RunFolder, *, trains: bool) -> list[list[int]]:
    """Return the workers of every loss that the events of a run tell of.

    Args:
        folder: Of the run, which has begun again by now.
        trains: Whether the coordinator is worker 0: where it is killed nobody is left
            to record that, and the run begins again without having ended.
    """
    found, open_ = list[list[int]](), False
    for event in folder.rows("events.jsonl", key="event"):
        if event["event"] == "failure":
            found.append(event["workers"])
        elif event["event"] in ("start", "resume") and open_ and trains:
            found.append([0])
        if event["event"] in ("start", "resume", "failure", "interrupted"):
            open_ = event["event"] in ("start", "resume")
    return found


def check_versions(hosts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse workers that would compute something else."""
    for rank, host in enumerate(hosts):
        for package, theirs in host["versions"].items():
            ours = version(package)
            if theirs != ours:
                raise ConfigError(
                    f"worker {rank} on {host['address']} runs {package} {theirs}, this process "
                    f"{ours}; install the same version on every host."
                )
