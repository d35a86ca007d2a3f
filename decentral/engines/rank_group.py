"""The workers of all ranks of a launch, as rank 0 asks them and hears of them.

What they say to each other are lines of JSON.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from decentral.config import Config, Engine
from decentral.engines.base import EngineRun
from decentral.engines.contact import PROCESS_DIED, START_S, Clocks, WorkersLost
from decentral.engines.ranks import Meeting, Ranks
from decentral.engines.ray.actor import Actor
from decentral.engines.worker import Job
from decentral.engines.workers import Report, Workers
from decentral.errors import Bug, ConfigError, RunError
from decentral.exchange.base import Rendezvous
from decentral.faults.base import Fault
from decentral.network.planning import Membership
from decentral.run.checkpoint import newest_checkpoint
from decentral.schedules.progress import Past

# --- what ranks say to each other -------------------------------------------------


class Link:
    """One end of a connection between rank 0 and another: lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connection."""
        self.connection, self.lock = connection, threading.Lock()
        self.lines = connection.makefile("rb")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one to a rank that is gone is lost with it."""
        line = json.dumps(message, default=_plain).encode() + b"\n"
        with self.lock, suppress(OSError):
            self.connection.sendall(line)

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield what the other end says, until it is gone."""
        with suppress(OSError, ValueError):
            for line in self.lines:
                yield json.loads(line)


def _plain(value: Any) -> Any:
    """Return what JSON cannot write as what it can: errors, paths, numbers of torch."""
    if isinstance(value, BaseException):
        bug, mistake = isinstance(value, Bug), isinstance(value, ConfigError)
        kind = "Bug" if bug else "ConfigError" if mistake else "RunError"
        said = value.said if isinstance(value, Bug) else str(value)
        trace = value.trace if isinstance(value, Bug) else ""
        return {"error": kind, "said": said, "trace": trace}
    if isinstance(value, Path):
        return str(value)
    return value.item()


def error_of(plain: Mapping[str, str]) -> Exception:
    """Return the error that another rank has written."""
    if plain["error"] == "Bug":
        return Bug(plain["said"], None, None, plain["trace"])
    return (ConfigError if plain["error"] == "ConfigError" else RunError)(plain["said"])


class Member(Actor):
    """A rank's worker as rank 0 asks it: as an actor of Ray, without Ray."""

    def __init__(self) -> None:
        """Answer; whoever asks sees to it that nobody is left alone."""
        self.worker = None

    def handshake(self) -> dict[str, Any]:
        """Return what this process runs; rank 0 knows where it is."""
        return {"versions": {name: version(name) for name in ("decentral", "torch")}}

    def meet(self, address: str) -> None:
        """Learn the address at which the others reach this rank."""
        self.address = address

    def poll(self, wait_s: float) -> tuple[int, list[Report]]:
        """Return the step that is done and what has happened since, at most
        ``wait_s`` later.
        """
        if self.worker is None:
            time.sleep(wait_s)
            return -1, []
        return self.worker.reports(wait_s)

    def start(self, job: Job) -> None:
        """Train in a thread of its own."""
        self.thread = threading.Thread(target=self.begin, args=[job], daemon=True)
        self.thread.start()


def write_job(job: Job, folder: Path) -> dict[str, Any]:
    """Return a job as the other ranks read it: they have the configuration, and all
    files, themselves.
    """
    config = job.config
    settings = {key: value for key, value in config if _is_scalar(value)}
    return {
        "folder": str(folder.resolve()),
        "settings": settings | {"compute": config.compute},
        "past": config.past and asdict(config.past),
        "live": job.members.live,
        "epoch": job.members.epoch,
        "blocks": [[block.start, block.stop] for block in job.blocks],
        "rendezvous": asdict(job.rendezvous),
        "step": job.checkpoint and job.checkpoint.step,
        "faults": [asdict(fault) for fault in job.faults],
    }


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def read_job(plain: dict[str, Any], config: Config) -> Job:
    """Return a job that rank 0 has written."""
    decided, past = dict(plain["settings"]), plain["past"]
    here = {key: v for key, v in decided.items() if key in Config.model_fields}
    here["engine"] = config.engine
    config = config.model_copy(update=here)
    config = config.after(Past(**past) if past else None)
    blocks = tuple(range(*ends) for ends in plain["blocks"])
    meeting: dict[str, Any] = dict(plain["rendezvous"])
    meeting["store"] = tuple(meeting["store"])
    rendezvous = Rendezvous(**meeting)
    members, checkpoint = Membership(tuple(plain["live"]), plain["epoch"]), None
    if plain["step"] is not None:
        saved = newest_checkpoint(Path(plain["folder"]))
        if saved.step != plain["step"]:
            raise RunError(
                f"rank {rendezvous.rank} finds the checkpoint of step {saved.step:,} in "
                f"{plain['folder']}, and rank 0 that of step {plain['step']:,}; keep the run "
                "(--out) where all hosts see the same files."
            )
        hosted = {members.live[place] for place in blocks[rendezvous.rank]}
        checkpoint = saved.load(hosted)
    faults = tuple(Fault(**one) for one in plain["faults"])
    return Job(config, {}, members, blocks, rendezvous, checkpoint, faults)


#: Seconds in which ranks that were lost together are all noticed, and in which rank 0
#: ends its own worker.
TOGETHER_S = 2.0
#: Seconds between two looks whether the launcher is still there.
LAUNCHER_S = 2.0
#: Seconds for which a rank gathers reports before it sends them; it says as often that
#: it is alive.
REPORTS_S = 0.2


class RankGroup(Workers):
    """The workers of all ranks, as rank 0 sees them."""

    def __init__(
        self,
        member: Member,
        links: Sequence[Link],
        engine: Engine,
        run: EngineRun,
        meeting: Meeting,
        stopping: threading.Event,
    ) -> None:
        """Listen to the others.

        Args:
            member: This process's own.
            links: To every other rank, in order.
            engine: The settings of the engine.
            run: The run.
            meeting: Where the ranks have met.
            stopping: Set where a signal has reached one of the others.
        """
        self.member, self.links, self.engine, self.run = member, links, engine, run
        self.meeting, self.stopping = meeting, stopping
        self.gone: set[int] = set()
        self.begun = run.step
        self.clocks = self._clocks()
        self._news: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._asked: dict[int, tuple[int, Future[Any]]] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._looked_s = time.monotonic()
        for rank, link in enumerate(links, start=1):
            threading.Thread(target=self._listen, args=[rank, link], daemon=True).start()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.links) + 1

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        return max(self.begun, min(self.steps))

    def _listen(self, rank: int, link: Link) -> None:
        for message in link.receive():
            self.clocks.answered_s[rank] = time.monotonic()
            if "answer" in message:
                with self._lock:
                    _, future = self._asked.pop(message["answer"])
                if "raised" in message:
                    future.set_exception(error_of(message["raised"]))
                else:
                    future.set_result(message["value"])
            elif "stop" in message:
                self.stopping.set()
            else:
                self._news.put((rank, message))
        self.gone.add(rank)
        with self._lock:
            left = [future for to, future in self._asked.values() if to == rank]
            self._asked = {k: v for k, v in self._asked.items() if v[0] != rank}
        for future in left:
            future.set_exception(WorkersLost([rank], PROCESS_DIED, self.step))

    # --- questions ----------------------------------------------------------------

    def _call(self, rank: int, method: str, given: Sequence[Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if rank == 0:
            try:
                future.set_result(getattr(self.member, method)(*given))
            except Exception as error:
                future.set_exception(error)
            return future
        if method == "read":
            raise RunError(
                f"rank {rank} does not see the run folder; keep the run (--out) where all "
                "hosts see the same files."
            )
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = rank, future
        self.links[rank - 1].send({"ask": number, "method": method, "given": given})
        if rank in self.gone and not future.done():
            raise WorkersLost([rank], PROCESS_DIED, self.step)
        return future

    def _wait(self, rank: int, future: Future[Any], timeout_s: float) -> Any:
        try:
            return future.result(timeout_s)
        except TooLate as error:
            raise WorkersLost(
                [rank], f"no answer within {timeout_s:g} s", self.step
            ) from error

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        """Return what one worker answers."""
        most_s = max(START_S, self.engine.progress_s)
        return self._wait(rank, self._call(rank, method, given), most_s)

    def ask_each(
        self, method: str, given: Sequence[tuple[Any, ...]], timeout_s: float
    ) -> list[Any]:
        """Return what every worker answers to its own question, in order.

        Args:
            method: Name of the worker's method.
            given: Arguments for each worker.
            timeout_s: Seconds to wait for all answers.
        """
        asked = [self._call(rank, method, each) for rank, each in enumerate(given)]
        return [self._wait(r, future, timeout_s) for r, future in enumerate(asked)]

    def handshake(self) -> list[dict[str, Any]]:
        """Return what every worker says of where it is; then all know their address."""
        found = self.ask_all("handshake", timeout_s=START_S)
        places = addresses(self.links, self.meeting.ranks)
        for rank, address in enumerate(places):
            self.ask(rank, "meet", address)
        return [one | {"address": a} for one, a in zip(found, places, strict=True)]

    # --- the work -----------------------------------------------------------------

    def begin(self, jobs: Iterable[Job]) -> None:
        """Give every worker its job; from now on there are reports."""
        own, *others = jobs
        for link, job in zip(self.links, others, strict=True):
            link.send({"job": write_job(job, self.run.folder.path)})
        self.member.start(own)
        self.clocks = self._clocks()

    def _clocks(self) -> Clocks:
        made = Clocks(len(self), self.engine.liveness_s, self.engine.progress_s)
        self.steps = made.steps
        return made

    @property
    def peer_timeout_s(self) -> float:
        """How long a worker waits for another's message: nobody else would notice that
        rank 0 stands still.
        """
        return self.engine.progress_s

    def reports(self) -> Iterator[Report]:
        """Yield what has happened since the last call, waiting a moment for the first
        of it.

        Raises WorkersLost for ranks that are gone or silent, or where none has got on
        for ``progress_s``; RunError without the launcher.
        """
        self.clocks.come_back()
        step, found = self.member.poll(REPORTS_S)
        self.clocks.note(0, step, bool(found))
        with self.clocks.standing():
            yield from found
        while not self._news.empty():
            rank, message = self._news.get()
            self.clocks.note(rank, message["step"], bool(message["reports"]))
            for report in message["reports"]:
                if report["what"] == "failed" and "error" in report:
                    report["error"] = error_of(report["error"])
                with self.clocks.standing():
                    yield report
        self._check(time.monotonic())
        self.clocks.leave()

    def _check(self, now_s: float) -> None:
        if self.gone:
            raise WorkersLost(sorted(self.gone), PROCESS_DIED, self.step)
        self.clocks.check(now_s, self.gone, self.step)
        if now_s - self._looked_s > LAUNCHER_S:
            self._looked_s = now_s
            # Killed outright, it leaves its ranks alive.
            if not self.meeting.is_alive():
                raise WorkersLost([], "the launcher is gone", self.step)

    def wait_for_losses(self, lost: WorkersLost) -> WorkersLost:
        """Wait a moment until it is clear who is gone: the peers of a lost rank notice
        before its connection to this one ends.
        """
        end_s = time.monotonic() + TOGETHER_S
        while not self.gone and not lost.ranks and time.monotonic() < end_s:
            time.sleep(REPORTS_S)
        if self.gone and not lost.ranks:
            return WorkersLost(sorted(self.gone), PROCESS_DIED, self.step)
        return lost

    def end(self, message: Mapping[str, Any]) -> None:
        """Tell the others how it ended."""
        for link in self.links:
            link.send(message)
        thread = getattr(self.member, "thread", None)
        if thread is not None:
            thread.join(TOGETHER_S)


def addresses(links: Sequence[Link], ranks: Ranks) -> list[str]:
    """Return the addresses at which ranks reach each other, in order.

    They are those of the connections that stand: a host's own name often resolves to
    an address that only it reaches.
    """
    if ranks.one_host:
        return ["127.0.0.1"] * (len(links) + 1)
    ends = [
        (link.connection.getsockname()[0], link.connection.getpeername()[0])
        for link in links
    ]
    own = next((here for here, _ in ends if not here.startswith("127.")), ends[0][0])
    return [own, *(own if there.startswith("127.") else there for _, there in ends)]
