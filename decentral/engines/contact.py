"""Who is lost: how long workers were silent or stood still, and who reaches whom, asked
when contact between living workers was lost, to leave out as few of them as must be.

A worker whose cable is cut is silent, and the coordinator notices. Where only the way
between two workers is cut, each blames the other and both answer: who is to go on
without whom is then decided by how many others each of them still reaches.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Container, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

#: Seconds within which a way must carry a connection: a packet may be lost twice.
REACH_S = 5.0

#: Seconds in which a worker must exist and answer for the first time, and again
#: when it begins.
START_S = 60.0
#: How the loss of a process reads, on a host that goes on.
PROCESS_DIED = "its process died"

#: An address and a port of it.
Place = tuple[str, int]


class WorkersLost(Exception):
    """Workers that are gone, by rank, and why; none: contact between living ones
    was lost.

    ``apart`` holds those that live, and are left out, with whom they do not reach.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        cause: str,
        step: int = 0,
        apart: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Say who, why, and after which step.

        Args:
            ranks: Of those that are gone.
            cause: In a few words.
            step: That every worker had done.
            apart: Of those that are left out, whom they do not reach.
        """
        super().__init__(cause)
        self.ranks, self.cause, self.step = sorted(ranks), cause, step
        self.apart = apart or {}

    @property
    def process(self) -> bool:
        """Whether only a process was lost, and its host goes on."""
        return self.cause == PROCESS_DIED

    @property
    def who(self) -> str:
        """Who is gone, in words."""
        return (
            ", ".join(f"worker {rank}" for rank in self.ranks)
            or "contact between workers"
        )


class Clocks:
    """For how long each worker has been silent, and for how long none has got on, while
    whoever coordinates them listened.

    It does other things, too: a page that is drawn or a slow disk keeps it from asking,
    on a busy machine for longer than workers may be silent. Meanwhile clocks stand.
    """

    def __init__(self, workers: int, liveness_s: float, progress_s: float) -> None:
        """Start the clocks.

        Args:
            workers: How many there are.
            liveness_s: Silence after which one is lost.
            progress_s: Seconds in which one of them must get on.
        """
        now_s = time.monotonic()
        self.liveness_s, self.progress_s = liveness_s, progress_s
        self.steps = [-1] * workers
        self.answered_s, self.moved_s = [now_s] * workers, now_s
        self._left_s: float | None = None

    def note(self, rank: int, step: int, reported: bool) -> None:
        """Take what a worker has answered.

        Args:
            rank: Of the worker.
            step: It has done.
            reported: Whether something has happened there. That is progress, too:
                evaluations and checkpoints may take longer than steps.
        """
        self.answered_s[rank] = time.monotonic()
        if step != self.steps[rank] or reported:
            self.steps[rank], self.moved_s = step, self.answered_s[rank]

    def leave(self) -> None:
        """Let the clocks stand from now on."""
        self._left_s = time.monotonic()

    def come_back(self) -> None:
        """Let the clocks go on, if they stand."""
        if self._left_s is None:
            return
        now_s = time.monotonic()
        away_s, self._left_s = now_s - self._left_s, None
        # An answer may have come by itself meanwhile.
        self.answered_s = [min(now_s, at_s + away_s) for at_s in self.answered_s]
        self.moved_s = min(now_s, self.moved_s + away_s)

    @contextmanager
    def standing(self) -> Generator[None]:
        """Let the clocks stand within a block."""
        self.leave()
        try:
            yield
        finally:
            self.come_back()

    def check(self, now_s: float, gone: Container[int], step: int) -> None:
        """Raise WorkersLost if at a time workers are silent for too long, or none has
        got on.

        Args:
            now_s: The time.
            gone: Workers that are known to be lost.
            step: That all of them had done.
        """
        # While it loads torch a worker can hardly answer.
        limits_s = [
            max(START_S, self.liveness_s) if done < 0 else self.liveness_s
            for done in self.steps
        ]
        silent = [
            rank
            for rank, limit_s in enumerate(limits_s)
            if rank not in gone and now_s - self.answered_s[rank] > limit_s
        ]
        if silent:
            limit_s = max(limits_s[rank] for rank in silent)
            raise WorkersLost(silent, f"silent for {limit_s:g} s", step)
        begins = min(self.steps, default=0) < 0
        most_s = max(START_S, self.progress_s) if begins else self.progress_s
        if now_s - self.moved_s > most_s:
            cause = f"no step within {most_s:g} s (engine.progress_s)"
            raise WorkersLost([], cause, step)


# --- asked of a worker ------------------------------------------------------------


def open_port(address: str) -> socket.socket:
    """Return a socket that lets itself be connected to, on a free port of an address.

    Nobody has to accept: the kernel completes connections by itself.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=1024)


def reached(places: Sequence[Place]) -> list[bool]:
    """Return which of some places can be connected to, all tried at a time."""
    if not places:
        return []
    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(_is_reached, places))


def _is_reached(place: Place) -> bool:
    try:
        socket.create_connection(place, timeout=REACH_S).close()
    except OSError:
        return False
    return True


def route(host: str, port: int) -> tuple[str, str]:
    """Return the addresses from which and at which a host is reached; nothing is sent."""
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as way:
        way.connect(place)
        return way.getsockname()[0], way.getpeername()[0]


# --- asked by the coordinator -----------------------------------------------------


def apart(reach: Sequence[Sequence[bool]], sizes: Sequence[int]) -> dict[int, list[int]]:
    """Return the workers to leave out, and whom of those that stay each is apart from.

    One after the other, whoever is in contact with the fewest of the others goes,
    until all that stay reach each other. Of several the one that hosts the fewest
    nodes goes, then the one of the highest rank: of two workers, one has to.

    Args:
        reach: Whether a worker, by row, reaches another, by column.
        sizes: Nodes that each worker hosts.

    >>> together = [[True, True, False], [True, True, True], [False, True, True]]
    >>> apart(together, [2, 2, 2])
    {2: [0]}
    """
    stay = set(range(len(reach)))
    # A way that carries nothing back is none.
    contact = {i: {j for j in stay if reach[i][j] and reach[j][i]} | {i} for i in stay}
    out: list[int] = []
    while any(stay - contact[i] for i in stay):
        least = min(stay, key=lambda i: (len(contact[i] & stay), sizes[i], -i))
        stay.remove(least)
        out.append(least)
    # Who was left out first may be apart only from others that were left out, too.
    return {i: sorted(stay - contact[i]) for i in sorted(out)}


def tell_apart(out: Mapping[int, Sequence[int]]) -> str:
    """Return in words whom those that are left out do not reach.

    >>> tell_apart({2: [0]})
    'worker 2 and worker 0 do not reach each other'
    """
    pairs = [f"worker {i} and worker {j}" for i, others in out.items() for j in others]
    more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
    return f"{', '.join(pairs[:3])}{more} do not reach each other"
