"""Workers that all answer, of which some do not reach each other: whom to leave out.

The workers are actors in this process, each at a loopback address of its own, over true sockets;
a link is cut where a socket would be connected.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from decentral.config import make_config
from decentral.engines import contact, worker
from decentral.engines.attempt import Start, find_apart
from decentral.engines.contact import Clocks, WorkersLost, apart, reached, tell_apart
from decentral.engines.ray.actor import Actor
from decentral.engines.worker import Effort, Worker
from decentral.engines.workers import CheckpointAssembly, blocks_of
from decentral.network.planning import Membership
from decentral.run.folder import RunFolder

LOST = WorkersLost([], "worker 1 lost contact with worker 0", 40)
Links = Sequence[tuple[int, int]]


class Actors:
    """Workers of an attempt, asked one after the other."""

    def __init__(self, count: int, cut: Links, silent: Sequence[int] = ()) -> None:
        self.cut, self.silent = cut, list(silent)
        self.addresses = [f"127.0.0.{1 + rank}" for rank in range(count)]
        self.actors: list[Any] = [Actor.__new__(Actor) for _ in range(count)]
        for actor, address in zip(self.actors, self.addresses, strict=True):
            actor.address = address
        self.asking = 0

    def connect(self, place: tuple[str, int], timeout: float) -> socket.socket:
        """Connect the worker that is asked to a place, unless that link is cut."""
        pair = self.asking, self.addresses.index(place[0])
        if pair in self.cut:
            raise OSError("No route to host")
        made = socket.socket()
        made.settimeout(timeout)
        made.connect(place)
        return made

    def ask_each(self, method: str, given: Any, timeout_s: float) -> list[Any]:
        if self.silent:
            raise WorkersLost(self.silent, f"no answer within {timeout_s:g} s")
        found: list[Any] = []
        for rank, each in enumerate(given):
            self.asking = rank
            found.append(getattr(self.actors[rank], method)(*each))
        return found

    def ask_all(self, method: str, *given: Any, timeout_s: float) -> list[Any]:
        return self.ask_each(method, [given] * len(self.actors), timeout_s)


def both(*pairs: tuple[int, int]) -> Links:
    return [*pairs, *((j, i) for i, j in pairs)]


def found(actors: Actors, nodes: int, patch: pytest.MonkeyPatch) -> WorkersLost:
    """Return what an attempt finds, of a loss of contact."""
    patch.setattr(contact.socket, "create_connection", actors.connect)
    blocks = blocks_of(nodes, len(actors.actors))
    start = Start(Membership.all_nodes(nodes), blocks, None, (), 0)
    given = actors.addresses, start, make_config({}), LOST
    try:
        return find_apart(cast("Any", actors), *given)
    finally:
        for actor in actors.actors:
            if hasattr(actor, "listening"):
                actor.listening.close()


PARTED = {
    "one link of five": (5, both((1, 3)), {3: [1]}),
    "one way of a link": (3, [(0, 2)], {2: [0]}),
    "three and two": (
        5,
        both(*((i, j) for i in (0, 1, 2) for j in (3, 4))),
        {3: [0, 1, 2], 4: [0, 1, 2]},
    ),
    "two and three": (
        5,
        both(*((i, j) for i in (0, 1) for j in (2, 3, 4))),
        {0: [2, 3, 4], 1: [2, 3, 4]},
    ),
    "one apart from all": (4, both((0, 1), (0, 2), (0, 3)), {0: [1, 2, 3]}),
    "two of two": (2, both((0, 1)), {1: [0]}),
    "two links of four": (4, both((0, 1), (2, 3)), {1: [0], 3: [2]}),
}


@pytest.mark.parametrize("name", PARTED)
def test_as_few_workers_as_must_be_are_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, cut, out = PARTED[name]
    lost = found(Actors(count, cut), 2 * count, monkeypatch)
    assert (lost.ranks, lost.apart, lost.step) == ([*out], out, 40)
    assert lost.cause == tell_apart(out)
    assert not lost.process


def test_of_two_the_one_that_hosts_fewer_nodes_is_left_out() -> None:
    reach = [[True, False], [False, True]]
    assert apart(reach, [2, 3]) == {0: [1]}
    assert apart(reach, [3, 2]) == {1: [0]}


def test_those_that_stay_reach_each_other_whatever_is_cut() -> None:
    """All graphs of five workers."""
    pairs = [(i, j) for i in range(5) for j in range(i)]
    for chosen in range(1 << len(pairs)):
        cut = {pair for k, pair in enumerate(pairs) if chosen >> k & 1}
        reach = [[(max(i, j), min(i, j)) not in cut for j in range(5)] for i in range(5)]
        out = apart(reach, [2] * 5)
        stay = set(range(5)) - out.keys()
        assert stay
        assert all(reach[i][j] for i in stay for j in stay)
        assert bool(out) == bool(cut)
        # Nobody is left out that reaches all who stay, but for whom it was left out with.
        assert all(set(others) <= stay for others in out.values())


def test_a_link_that_has_healed_leaves_out_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(Actors(3, []), 6, monkeypatch) is LOST


def test_who_does_not_answer_is_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = found(Actors(3, [], silent=[1]), 6, monkeypatch)
    assert (lost.ranks, lost.step, lost.apart) == ([1], 40, {})
    assert lost.cause == "no answer within 10 s"


def test_nobody_listens_before_contact_was_lost_nor_after() -> None:
    actor: Any = Actor.__new__(Actor)
    actor.address = "127.0.0.1"
    port = actor.listen()
    assert reached([("127.0.0.1", port)]) == [True]
    actor.listening.close()
    assert reached([("127.0.0.1", port)]) == [False]
    assert reached([]) == []


def test_many_pairs_are_named_by_their_beginning() -> None:
    said = tell_apart({3: [0, 1, 2], 4: [0, 1, 2]})
    assert said == (
        "worker 3 and worker 0, worker 3 and worker 1, worker 3 and worker 2 and 3 more pairs "
        "do not reach each other"
    )


# --- how long they may be silent, or stand still ------------------------------------------


class Time:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(contact.time, "monotonic", made)
    return made


def begun(clock: Time, liveness_s: float = 10.0, progress_s: float = 30.0) -> Clocks:
    """Return the clocks of two workers that have begun."""
    clocks = Clocks(2, liveness_s, progress_s)
    for rank in (0, 1):
        clocks.note(rank, 0, False)
    return clocks


def test_what_keeps_who_asks_from_asking_is_no_silence(clock: Time) -> None:
    """A page that is drawn, or a slow disk, while a report is taken and between two."""
    clocks = begun(clock)
    clock.now += 5
    with clocks.standing():
        clock.now += 1000
    clocks.leave()
    clock.now += 1000
    clocks.come_back()
    clocks.check(clock.now, (), 0)
    clocks.check(clock.now + 4, (), 0)
    with pytest.raises(WorkersLost, match="silent for 10 s") as lost:
        clocks.check(clock.now + 6, (1,), 0)
    assert lost.value.ranks == [0]


def test_clocks_stand_no_longer_than_somebody_is_away(clock: Time) -> None:
    clocks = begun(clock)
    clocks.leave()
    clock.now += 50
    clocks.answered_s[1] = clock.now - 1  # it has said so itself
    clocks.come_back()
    clocks.come_back()
    assert clocks.answered_s == [clock.now, clock.now]
    assert clocks.moved_s == clock.now


def test_nobody_who_answers_is_lost_while_another_reports(clock: Time) -> None:
    clocks = begun(clock)
    for _ in range(20):
        clock.now += 8
        clocks.note(0, 0, False)
        clocks.note(1, 0, True)
        clocks.check(clock.now, (), 0)
    for _ in range(4):
        clock.now += 8
        clocks.note(0, 0, False)
        clocks.note(1, 0, False)
    with pytest.raises(WorkersLost, match="no step within 30 s") as lost:
        clocks.check(clock.now, (), 0)
    assert not lost.value.ranks


def test_until_all_have_begun_they_may_stand_still_for_longer(clock: Time) -> None:
    clocks = Clocks(2, 100.0, 5.0)
    clocks.note(0, 0, False)
    clocks.check(clock.now + 59, (), 0)
    clocks.note(1, 0, False)
    with pytest.raises(WorkersLost, match="no step within 5 s"):
        clocks.check(clock.now + 59, (), 0)


@pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="nobody can tell here"
)
def test_who_computes_is_told_from_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOOK_S", 0.01)
    ended, efforts = threading.Event(), list[Effort]()
    working = threading.Event()

    def work() -> None:
        efforts.append(Effort())
        working.set()
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    working.wait()
    try:
        waits = Effort()
        assert not waits.shows(), "a moment ago"
        time.sleep(0.1)
        assert efforts[0].shows()
        assert not waits.shows()
    finally:
        ended.set()
        thread.join()
    efforts[0].shows()
    time.sleep(0.02)
    assert not efforts[0].shows(), "it has ended"


def test_a_worker_with_nothing_else_to_say_reports_that_it_computes() -> None:
    made: Any = Worker.__new__(Worker)
    made.rank, made.step, made.unread = 1, 7, queue.SimpleQueue()
    made.effort = SimpleNamespace(shows=lambda: True)
    assert made.reports(0.0) == (7, [{"what": "computes", "rank": 1}])
    made.unread.put({"what": "began"})
    assert made.reports(0.0) == (7, [{"what": "began"}])
    made.effort = None
    assert made.reports(0.0) == (7, [])


# --- checkpoints of workers that stand elsewhere ------------------------------------------


class Elsewhere:
    """One worker that sees the run folder, and stands in another folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker: Any = Worker.__new__(Worker)
        self.worker.staged = {"nodes-00000.safetensors": b"row"}
        self.worker.changed = threading.Condition()

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        with chdir(self.folder):
            return getattr(self.worker, method)(*map(as_path, given))


def as_path(given: str) -> Any:
    """Return what an actor makes of an argument."""
    return Path(given) if "/" in given else given


def test_a_relative_run_folder_is_the_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    for folder in (there, tmp_path / "run"):
        folder.mkdir()
    monkeypatch.chdir(tmp_path)
    checkpoints: Any = object.__new__(CheckpointAssembly)
    checkpoints.folder, checkpoints.shared = RunFolder(Path("run")), True
    checkpoints.workers = Elsewhere(there)
    staged = {"rank": 0, "name": "nodes-00000.safetensors", "size": 3}
    checkpoints.collect(staged, Path("run", "nodes-00000.safetensors"))
    assert (tmp_path / "run" / "nodes-00000.safetensors").read_bytes() == b"row"
    assert not list(there.iterdir())
