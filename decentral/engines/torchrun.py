"""A run of the ranks that torchrun or Slurm have started: one worker in each; rank 0
coordinates and records, too.

What rank 0 and the others say to each other are lines of JSON. Rows never travel
there: the workers exchange them as those of any engine do, and each rank writes its own
part of a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from decentral.blame import attribute
from decentral.config import Config, foreign_parts
from decentral.engines.attempt import Attempt, Start, recorded_losses
from decentral.engines.base import EngineRun, Watch
from decentral.engines.contact import START_S, WorkersLost
from decentral.engines.rank_group import (
    REPORTS_S,
    Link,
    Member,
    RankGroup,
    read_job,
)
from decentral.engines.ranks import Meeting, Ranks
from decentral.engines.workers import blocks_of
from decentral.errors import ConfigError, RunError, shell_word, visible
from decentral.faults.base import due_faults
from decentral.loop.cost import thread_count
from decentral.loop.pipeline import gradient_of
from decentral.loop.setup import Setup
from decentral.network.planning import Membership
from decentral.run.checkpoint import Saved
from decentral.sampling import Sampler
from decentral.topology.labels import all_ids

# --- the other ranks --------------------------------------------------------------


def take_part(config: Config, meeting: Meeting) -> Path:
    """Train a part of the run that rank 0 coordinates; return its folder at the end.

    Where the run ends otherwise this process ends with it, and says nothing: rank 0
    does. Only of its own loss the next rank tells.
    """
    ranks = meeting.ranks
    # While rank 0 prepares, a signal ends this process without a word; later rank 0
    # decides what is done about it.
    _on_signals(signal.SIG_DFL)
    found = meeting.connect()
    if isinstance(found, Path):
        return found
    member, link, folder = Member(), Link(found), ""
    # Whom of them a signal reaches, the launcher decides: all stop together.
    _on_signals(lambda *_: link.send({"stop": True}))
    _choose_device(ranks)
    for message in link.receive():
        if "finished" in message:
            member.thread.join(START_S)
            return Path(message["finished"])
        if "failed" in message:
            _leave()
        if "job" in message:
            folder = message["job"]["folder"]
            threading.Thread(
                target=_begin, args=[member, link, config, message["job"]], daemon=True
            ).start()
        else:
            threading.Thread(target=_answer, args=[member, link, message]).start()
    if ranks.rank == 1:
        again = f"`{_start_of(ranks)} resume {shell_word(folder)}` goes on from the last checkpoint"
        remedy = again if folder else "nothing is saved: start them again"
        print(
            visible(f"error: rank 0 is lost; all ranks end. {remedy}."), file=sys.stderr
        )
    return _leave()


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # Python takes handlers in its main thread only
            signal.signal(number, handler)


def _leave() -> Any:
    """End at once: threads may wait for a peer for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _answer(member: Member, link: Link, message: Mapping[str, Any]) -> None:
    try:
        value = getattr(member, message["method"])(*message["given"])
        link.send({"answer": message["ask"], "value": value})
    except Exception as error:
        link.send({"answer": message["ask"], "raised": attribute(error)})


def _begin(member: Member, link: Link, config: Config, plain: dict[str, Any]) -> None:
    """Begin with the job that rank 0 has written, and tell what happens."""
    try:
        member.start(read_job(plain, config))
    except Exception as error:
        found = {"what": "failed", "rank": plain["rendezvous"]["rank"], "kind": "error"}
        found["error"] = attribute(error, foreign_parts(config))
        link.send({"step": -1, "reports": [found]})
        return
    while True:
        step, reports = member.poll(REPORTS_S)
        link.send({"step": step, "reports": reports})


def _choose_device(ranks: Ranks) -> None:
    """Let every rank of a host see a GPU of its own, before anything looks for one."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = seen.split(",") if seen else None
    if devices is None:
        import torch

        devices = [str(k) for k in range(torch.cuda.device_count())]
    if len(devices) > 1 and ranks.device < len(devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[ranks.device]


# --- rank 0 -----------------------------------------------------------------------


class NoGauges:
    """Nobody watches the numbers of a run beside its trackers."""

    def record(
        self, record: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Show nothing."""

    def repeat(self) -> None:
        """Show nothing again."""


class TorchrunRun(EngineRun):
    """A run whose workers are the ranks of a launcher; this process is rank 0."""

    def __init__(self, config: Config) -> None:
        """Prepare a run; the other ranks wait, and nothing is written before ``begin``
        or ``go_on``.
        """
        if Meeting.open is None:
            raise ConfigError(
                "engine torchrun: no launcher has started this process; start it by "
                "`torchrun --nproc-per-node 4 -m decentral ...`, or say engine=local."
            )
        self.meeting = Meeting.open
        check_count(config, self.meeting.ranks)
        self.starter = _start_of(self.meeting.ranks)
        _choose_device(self.meeting.ranks)
        super().__init__(config)
        refuse_events(self.setup)
        self.workers = self.meeting.ranks.world
        self.members, self.saved = Membership.all_nodes(config.nodes), None
        self.group: RankGroup | None = None
        smallest = config.nodes // self.workers
        sampler = Sampler(
            self.setup.train, self.setup.plan, all_ids(smallest), config.seed
        )
        gradient, self.compute_reason = gradient_of(self.setup, smallest, sampler)
        self.replicas = gradient.kind
        # The launcher may have said how many cores a rank has.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        each = max(1, cores // self.workers) if self.meeting.ranks.one_host else None
        self.threads = thread_count(self.setup, self.workers, each)

    @property
    def place(self) -> str:
        """Where the workers run, in words."""
        ranks = self.meeting.ranks
        return f"{ranks.world} ranks of {ranks.launcher}"

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration."""
        asked = self.setup.config.engine
        kept = {key: getattr(asked, key) for key in ("wire", "liveness_s", "progress_s")}
        engine = {"name": "torchrun", "workers": self.workers, **kept}
        return super().settings | {"engine": engine}

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        if self.group:
            return self.group.step
        return self.saved.step if self.saved else 0

    def restore(self, saved: Saved) -> None:
        """Stand where a checkpoint was taken, with the nodes that were live then."""
        self.members = Membership(saved.live, saved.counters["epoch"])
        if len(saved.live) < self.workers:
            raise ConfigError(
                f"{len(saved.live)} nodes are left, and there are {self.workers} ranks; start "
                "at most as many."
            )
        self.saved = saved

    def train(self, watch: Watch) -> dict[str, Any]:
        """Train to the end and return the summary; a lost rank ends all of them."""
        self.meeting.folder = self.folder.path
        stopping = self.stopping or _stop_once()
        config = self.setup.config
        links = [Link(connection) for connection in self.meeting.gather()]
        self.group = group = RankGroup(
            Member(), links, config.engine, self, self.meeting, stopping
        )
        losses = recorded_losses(self.folder, trains=True)
        faults = tuple(due_faults(config.faults, losses))
        blocks = blocks_of(len(self.members.live), self.workers)
        start = Start(self.members, blocks, self.saved, faults, 0)
        told: dict[str, Any] = {"failed": True}
        try:
            Attempt(
                self, group, start, NoGauges(), watch, stopping, lambda: False
            ).follow()
            told = {"finished": str(self.folder.path.resolve())}
        except WorkersLost as lost:
            raise self._explain_loss(group.wait_for_losses(lost)) from lost
        finally:
            group.end(told)
            Meeting.open = None
        return self.conclude()

    def _explain_loss(self, lost: WorkersLost) -> RunError:
        names = ", ".join(f"rank {rank}" for rank in lost.ranks)
        who = names or "contact between ranks"
        nodes = [
            self.members.live[place]
            for rank in lost.ranks
            for place in blocks_of(len(self.members.live), self.workers)[rank]
        ]
        details = {"step": self.step, "workers": lost.ranks, "nodes": nodes}
        self.announce("failure", details | {"cause": lost.cause, "then": "stop"})
        again = f"{self.starter} resume {shell_word(self.folder.path)}"
        return RunError(
            f"{who} lost at step {self.step} ({lost.cause}); all ranks end. `{again}` goes on "
            "from the last checkpoint."
        )


def _start_of(ranks: Ranks) -> str:
    """Return the beginning of a command that starts as many ranks."""
    if ranks.launcher == "srun":
        return "srun decentral"
    return f"torchrun --nproc-per-node {ranks.world} -m decentral"


def _stop_once() -> threading.Event:
    """Return what a signal sets, again and again: a launcher passes on what a terminal
    has sent already, and ends by force whoever takes too long.
    """
    stopping = threading.Event()
    _on_signals(lambda *_: stopping.set())
    return stopping


def refuse_events(setup: Setup) -> None:
    """Raise ConfigError for an algorithm of which one process computes all events."""
    if setup.in_events:
        raise ConfigError(
            f"algorithm {setup.algorithm.name!r} goes event by event, which is not defined on "
            "ranks; say engine=local, and start it once."
        )


def check_count(config: Config, ranks: Ranks) -> None:
    """Refuse a run that does not suit the number of ranks."""
    asked, world = config.engine.workers, ranks.world
    if asked not in ("auto", world):
        raise ConfigError(
            f"engine.workers {asked}: {ranks.launcher} has started {world} ranks, one worker "
            f"each; start {asked}, or leave engine.workers out."
        )
    if config.nodes < world:
        raise ConfigError(
            f"nodes {config.nodes}: every rank hosts at least one node, and {ranks.launcher} has "
            f"started {world}; start at most {config.nodes}, or raise nodes."
        )
