"""Who reaches whom: asked when contact between living workers was lost, to leave out
as few of them as must be.

A worker whose cable is cut is silent, and the coordinator notices. Where only the way
between two workers is cut, each blames the other and both answer: who is to go on
without whom is then decided by how many others each of them still reaches.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

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
