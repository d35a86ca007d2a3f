"""Who sends which rows to whom in one round: pure functions of the mixing and of the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from decentral.exchange.heard import Heard, heard_by
from decentral.mixing.base import Integers, Mixing


@dataclass(frozen=True)
class Parcel:
    """Rows that travel as one message between this worker and another.

    ``rows`` are indices of hosted rows if ``outgoing``, else indices of the inbox (consecutive).
    ``slot`` is the first row's place among all rows that travel in the round, ordered by
    (receiving worker, row): every worker counts the same slots.
    """

    slot: int
    peer: int
    outgoing: bool
    rows: Integers


@dataclass(frozen=True)
class Route:
    """One worker's part in a round; ``slots`` counts the rows that travel between all workers."""

    slots: int
    inbox: int  # rows of others that this worker hears
    parcels: tuple[Parcel, ...]  # ascending by slot
    heard: Heard

    @cached_property
    def incoming(self) -> tuple[Parcel, ...]:
        """What this worker hears, ascending by slot."""
        return tuple(parcel for parcel in self.parcels if not parcel.outgoing)

    @cached_property
    def outgoing(self) -> tuple[Parcel, ...]:
        """What this worker sends, ascending by slot."""
        return tuple(parcel for parcel in self.parcels if parcel.outgoing)


def route(mixing: Mixing, blocks: Sequence[range], rank: int, packed: bool) -> Route:
    """Return what worker ``rank`` sends, hears and adds up.

    Every row is sent at most once to each worker that hears it. ``packed`` puts all rows for one
    worker in one message; otherwise every row is a message of its own.

    Args:
        mixing: The weights of the round.
        blocks: Positions that each worker hosts.
        rank: The worker.
        packed: Whether rows for one worker travel as one message.
    """
    worker = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    hearing = np.repeat(worker, np.diff(mixing.indptr))
    crossing = hearing != worker[mixing.senders]
    keys = np.unique(hearing[crossing] * mixing.nodes + mixing.senders[crossing])
    receivers, rows = np.divmod(keys, mixing.nodes)
    senders = worker[rows]
    first = blocks[rank].start
    inbox = rows[receivers == rank]
    begins = _begins(receivers, senders, packed)
    parcels = [
        Parcel(int(a), int(receivers[a]), True, rows[a:b] - first)
        if senders[a] == rank
        else Parcel(int(a), int(senders[a]), False, np.searchsorted(inbox, rows[a:b]))
        for a, b in zip(begins, np.r_[begins, len(keys)][1:], strict=True)
        if rank in (senders[a], receivers[a])
    ]
    return Route(len(keys), len(inbox), tuple(parcels), heard_by(mixing, blocks[rank], inbox))


def _begins(receivers: Integers, senders: Integers, packed: bool) -> Integers:
    """Return where messages begin in the order of slots."""
    if not packed:
        return np.arange(len(receivers))
    changes = (np.diff(receivers) != 0) | (np.diff(senders) != 0)
    return np.flatnonzero(np.r_[len(receivers) > 0, changes])


def same(one: Mixing, other: Mixing) -> bool:
    """Whether two mixings are equal."""
    return one is other or (
        np.array_equal(one.indptr, other.indptr)
        and np.array_equal(one.senders, other.senders)
        and np.array_equal(one.weights, other.weights)
    )


def is_average(mixing: Mixing) -> bool:
    """Whether every node takes the plain mean of all nodes."""
    nodes = mixing.nodes
    return len(mixing.senders) == nodes**2 and bool(np.allclose(mixing.weights, 1 / nodes, 1e-12))
