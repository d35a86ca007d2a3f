"""The actors of one attempt: placed, started, asked, shut down."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from decentral.config import Config, Engine
from decentral.engines.contact import PROCESS_DIED, START_S, Clocks, WorkersLost
from decentral.engines.ray.actor import Actor
from decentral.engines.ray.cluster import HEAD_EVERY_S, Cluster, Head, Host
from decentral.engines.ray.placement import place_workers, share_of_cores
from decentral.engines.workers import Report, Workers
from decentral.errors import ConfigError, RunError, worker_error

#: Seconds that a worker may keep a question for reports.
REPORTS_S = 0.3
#: Seconds in which workers lost together are all noticed, once the first was.
TOGETHER_S = 1.5
#: Seconds that a worker waits for another's message: whoever coordinates decides much
#: sooner who is lost, and ends who waits.
PEER_S = 86400.0
#: A process that nobody has asked for this many times ``liveness_s`` ends itself.
ORPHANED = 3.0
#: How Python says, within what Ray says, that there is no such module.
_MISSING = re.compile("No module named '([^']+)'")


@dataclass
class WorkerGroup(Workers):
    """The actors of one attempt, by rank, and where they are."""

    actors: list[Any]
    hosts: list[Host]
    engine: Engine
    begun: int = 0
    head: Head | None = None
    gone: set[int] = field(default_factory=set[int])
    _asked: dict[Any, int] = field(default_factory=dict[Any, int])
    _works: dict[Any, int] = field(default_factory=dict[Any, int])
    clocks: Clocks = field(init=False)

    def __post_init__(self) -> None:
        """Start the clocks: workers may be lost before they have a job."""
        self._start_clocks()

    def _start_clocks(self) -> None:
        engine = self.engine
        self.clocks = Clocks(len(self.actors), engine.liveness_s, engine.progress_s)
        self.steps = self.clocks.steps

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.actors)

    # --- questions ----------------------------------------------------------------

    def ask_each(
        self, method: str, given: Sequence[tuple[Any, ...]], timeout_s: float
    ) -> list[Any]:
        """Return what every worker answers to its own question, in order.

        Args:
            method: Name of the worker's method.
            given: Arguments for each worker.
            timeout_s: Seconds to wait for all answers.
        """
        refs = [
            self._call(rank, method, *arguments) for rank, arguments in enumerate(given)
        ]
        ready = self._wait(refs, timeout_s)
        silent = [rank for rank, ref in enumerate(refs) if ref not in set(ready)]
        if silent:
            raise WorkersLost(silent, f"no answer within {timeout_s:g} s")
        return [self._answer(rank, ref) for rank, ref in enumerate(refs)]

    def handshake(self) -> list[dict[str, Any]]:
        """Return what every worker says of where it is, and its address there."""
        return self.ask_all("handshake", timeout_s=START_S)

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        """Return what one worker answers; raises WorkersLost when it does not in
        time.
        """
        ref = self._call(rank, method, *given)
        # However soon a run gives up: it may have to load torch first.
        most_s = max(START_S, self.engine.progress_s)
        if not self._wait([ref], most_s):
            raise WorkersLost([rank], f"no answer within {most_s:g} s")
        return self._answer(rank, ref)

    def _wait(self, refs: list[Any], timeout_s: float) -> list[Any]:
        """Return those answers that come in time; raises RunError without Ray's
        head.
        """
        import ray

        end_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, end_s - time.monotonic())
            turn_s = min(left_s, HEAD_EVERY_S)
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=turn_s)
            if len(ready) == len(refs) or turn_s == left_s:
                return ready
            if self.head:
                self.head.check(time.monotonic())

    def _call(self, rank: int, method: str, *given: Any) -> Any:
        call = getattr(self.actors[rank], method)
        # Training keeps the actor's own thread busy; questions have threads for
        # themselves.
        return call.options(concurrency_group="watch").remote(*given)

    def _answer(self, rank: int, ref: Any) -> Any:
        """Return an answer that is there, or tell why there is none."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(ref)
        except RayTaskError as error:
            cause = unwrap(error.cause)
            known = isinstance(cause, ConfigError | RunError)
            raise cause if known else worker_error(cause, str(error)) from error
        except RayError as error:
            raise WorkersLost([rank], self._cause(rank, error)) from error

    def _cause(self, rank: int, error: Exception) -> str:
        """Return in a few words why a worker is gone: by Ray's types, and the state
        of its host.
        """
        import ray
        from ray.exceptions import ActorUnavailableError, OwnerDiedError, RayActorError

        if isinstance(error, ActorUnavailableError):
            return "it is out of reach"
        if isinstance(error, OwnerDiedError):
            return "its owner is gone"
        host = self.hosts[rank].id
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == host):
            return "its host is gone"
        if isinstance(error, RayActorError):
            return PROCESS_DIED
        return " ".join(str(error).split())[:200]

    # --- the work -----------------------------------------------------------------

    def begin(self, jobs: Iterable[Any]) -> None:
        """Give every worker its job; from now on there are reports."""
        self._start_clocks()
        # Answers only when the work ends: before that it tells of a process that
        # died.
        for actor in self.actors:
            actor.look_in.remote(sys.path)
        works = [
            actor.begin.remote(job) for actor, job in zip(self.actors, jobs, strict=True)
        ]
        self._works = {work: rank for rank, work in enumerate(works)}

    def reports(self) -> Iterator[Report]:
        """Yield what has happened since the last call, waiting a moment for the
        first of it.

        Raises WorkersLost for workers that are dead, that are silent for
        ``liveness_s``, and all of them when none has got on for ``progress_s``;
        RunError for one that cannot even begin, or without Ray's head.
        """
        import ray

        self.clocks.come_back()
        # One question at a time for each worker, asked again as soon as it has
        # answered.
        for rank in set(range(len(self.actors))) - set(self._asked.values()) - self.gone:
            self._asked[self._call(rank, "poll", REPORTS_S)] = rank
        if not self._asked:
            return
        ready, _ = ray.wait([*self._asked, *self._works], timeout=2 * REPORTS_S)
        for ref in ready:
            if ref in self._works:
                self._answer(self._works.pop(ref), ref)
                continue
            rank = self._asked.pop(ref)
            step, reports = self._answer(rank, ref)
            self.clocks.note(rank, step, bool(reports))
            with self.clocks.standing():
                yield from reports
        if self.head:
            self.head.check(time.monotonic())
        self.clocks.check(time.monotonic(), self.gone, self.step)
        self.clocks.leave()

    @property
    def step(self) -> int:
        """The step that every worker has done, at first that of the checkpoint it
        begins at.
        """
        return max(self.begun, min(self.steps, default=0))

    @property
    def peer_timeout_s(self) -> float:
        """How long a worker waits for another's message."""
        return max(PEER_S, self.engine.progress_s)

    def wait_for_losses(self, lost: WorkersLost) -> WorkersLost:
        """Wait until it is clear who is gone, and why; return it.

        That takes a moment, or ``liveness_s`` if nobody is known to be gone:
        workers notice a dead peer before its host tells.
        """
        self.gone |= set(lost.ranks)
        cause, began = lost.cause, time.monotonic()
        while time.monotonic() - began < (TOGETHER_S if self.gone else self._patience_s):
            try:
                for _ in self.reports():
                    continue
            except WorkersLost as more:
                if not self.gone:
                    cause = more.cause
                # Somebody new: wait once more for those who were lost with them.
                if not set(more.ranks) <= self.gone:
                    began = time.monotonic()
                self.gone |= set(more.ranks)
        return WorkersLost(sorted(self.gone), cause, self.step)

    @property
    def _patience_s(self) -> float:
        return self.engine.liveness_s + 2 * REPORTS_S

    def shut_down(self) -> None:
        """Take every process down, whatever it is doing."""
        import ray

        for actor in self.actors:
            # it may be gone already, or its host be out of reach
            with suppress(Exception):
                ray.kill(actor)
        self._asked.clear()
        self._works.clear()


def start_workers(
    cluster: Cluster,
    config: Config,
    labels: Sequence[str],
    run: str,
    blocked: Container[str],
    begun: int = 0,
) -> WorkerGroup:
    """Start one actor per label on the hosts that are there, with the cores they
    can have.

    Args:
        cluster: Where.
        config: Of the run; says what is placed how, and how long workers may be
            silent.
        labels: What every worker is called, by rank.
        run: The namespace of the actors' names.
        blocked: Ids of hosts that are used only where there is no other.
        begun: The step that workers start from.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    gpus = int(config.device.startswith("cuda"))
    hosts = place_workers(
        cluster.hosts(), len(labels), config.engine.placement, blocked, gpus
    )
    # However soon a run gives up: machines that are busy take long to meet.
    meeting_s = max(START_S, config.engine.progress_s)
    made: Any = ray.remote
    remote = made(concurrency_groups={"watch": 4})(Actor)
    actors = [
        remote.options(
            name=label,
            namespace=run,
            num_cpus=share_of_cores(host, hosts),
            num_gpus=gpus,
            # An actor that Ray restarts would have no rows; the driver begins a new
            # attempt.
            max_restarts=0,
            # On this host or not at all: elsewhere the cores were given to others.
            scheduling_strategy=NodeAffinitySchedulingStrategy(host.id, soft=False),
        ).remote(label, ORPHANED * config.engine.liveness_s, meeting_s)
        for label, host in zip(labels, hosts, strict=True)
    ]
    head = Head(ray.get_runtime_context().gcs_address)
    return WorkerGroup(actors, hosts, config.engine, begun, head)


def unwrap(error: BaseException) -> BaseException:
    """Return what a worker has raised: of an object from Python whose module it lacks,
    of which Ray makes an error of its own, the ImportError.
    """
    from ray.exceptions import RaySystemError

    found = _MISSING.search(str(error)) if isinstance(error, RaySystemError) else None
    return ModuleNotFoundError(found[0], name=found[1]) if found else error
