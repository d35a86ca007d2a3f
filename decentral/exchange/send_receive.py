"""Who sends which rows to whom in one round, and what is made of those that arrive.

Plans are pure functions of the mixing and of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from decentral.exchange.base import (
    CHUNK_BYTES,
    NeighbourIndex,
    neighbour_index,
    ordered_sums,
)
from decentral.mixing.base import Integers, Mixing


@dataclass(frozen=True)
class Message:
    """Rows that travel together between this worker and another.

    ``rows`` are indices of hosted rows if ``outgoing``, else indices of the inbox
    (consecutive). ``index`` is the first row's place among all rows that travel in
    the round, ordered by (receiving worker, row): every worker counts the same
    indices.
    """

    index: int
    peer: int
    outgoing: bool
    rows: Integers


@dataclass(frozen=True)
class SendReceivePlan:
    """One worker's part in a round; ``total_rows`` travel between all workers
    together.
    """

    total_rows: int
    inbox: int  # rows of others that this worker receives
    messages: tuple[Message, ...]  # ascending by index
    neighbours: NeighbourIndex

    @cached_property
    def incoming(self) -> tuple[Message, ...]:
        """What this worker receives, ascending by index."""
        return tuple(message for message in self.messages if not message.outgoing)

    @cached_property
    def outgoing(self) -> tuple[Message, ...]:
        """What this worker sends, ascending by index."""
        return tuple(message for message in self.messages if message.outgoing)


def send_receive_plan(
    mixing: Mixing, blocks: Sequence[range], rank: int, packed: bool
) -> SendReceivePlan:
    """Return what worker ``rank`` sends, receives and adds up.

    Every row is sent at most once to each worker that receives it.

    Args:
        mixing: Of the round.
        blocks: The positions that each worker hosts.
        rank: The worker.
        packed: Whether all rows for one worker are one message; else every row is
            one.
    """
    worker = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    receiving = np.repeat(worker, np.diff(mixing.indptr))
    crossing = receiving != worker[mixing.senders]
    # One key for each pair of a worker and a row: ``unique`` drops repeats, so that
    # a row travels once for all nodes there, and orders messages alike on every
    # worker.
    keys = np.unique(receiving[crossing] * mixing.nodes + mixing.senders[crossing])
    receivers, rows = np.divmod(keys, mixing.nodes)
    senders = worker[rows]
    first = blocks[rank].start
    # Ascending, since keys are, on which ``searchsorted`` below relies.
    inbox = rows[receivers == rank]
    begins = _begins(receivers, senders, packed)
    messages = [
        Message(int(a), int(receivers[a]), True, rows[a:b] - first)
        if senders[a] == rank
        else Message(int(a), int(senders[a]), False, np.searchsorted(inbox, rows[a:b]))
        for a, b in zip(begins, np.concatenate((begins, [len(keys)]))[1:], strict=True)
        if rank in (senders[a], receivers[a])
    ]
    neighbours = neighbour_index(mixing, blocks[rank], inbox)
    return SendReceivePlan(len(keys), len(inbox), tuple(messages), neighbours)


def _begins(receivers: Integers, senders: Integers, packed: bool) -> Integers:
    """Return where messages begin in the order of their index."""
    if not packed:
        return np.arange(len(receivers))
    changes = (np.diff(receivers) != 0) | (np.diff(senders) != 0)
    return np.flatnonzero(np.concatenate(([len(receivers) > 0], changes)))


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
    return len(mixing.senders) == nodes**2 and bool(
        np.allclose(mixing.weights, 1 / nodes, 1e-12)
    )


# --- rows in blocks ---------------------------------------------------------------


def column_chunks(width: int, longest: int) -> list[slice]:
    """Divide columns into slices of nearly equal width, a multiple of 16 but for
    the last.
    """
    count = max(1, -(-width // longest))
    each = max(16, -(-width // count // 16) * 16)
    return [slice(begin, min(begin + each, width)) for begin in range(0, width, each)]


def rows_of(block: Tensor, columns: slice, message: Message) -> Tensor:
    """Return rows of a block, as a view where they are neighbours."""
    rows = message.rows
    if len(rows) == 1:
        return block[int(rows[0]), columns]
    if rows[-1] - rows[0] == len(rows) - 1:
        return block[int(rows[0]) : int(rows[-1]) + 1, columns]
    return block[torch.from_numpy(rows).to(block.device), columns]


def add_up(channel: Tensor, inbox: Tensor, plan: SendReceivePlan) -> None:
    """Write the sums over hosted rows and inbox, [n, k] and [received, k], into
    their receivers.

    Chunk by chunk of columns, whose rows are laid together so that every sum is one
    pass in ascending order of senders.
    """
    here = plan.neighbours
    if not len(here.receivers):
        return
    device, count = channel.device, len(channel) + len(inbox)
    senders, offsets = (
        torch.from_numpy(a).to(device) for a in (here.senders, here.offsets)
    )
    receivers = torch.from_numpy(here.receivers).to(device)
    weights = torch.from_numpy(here.weights).to(channel)
    # As many columns as stay in the cache; with fewer than 64, calls take the time.
    columns = max(64, CHUNK_BYTES // (count * channel.element_size()))
    received = inbox.split(columns, dim=1)
    for mine, theirs in zip(channel.split(columns, dim=1), received, strict=True):
        added = ordered_sums(torch.cat([mine, theirs]), senders, weights, offsets)
        # The usual case, and a copy without an index is several times faster.
        if len(here.receivers) == len(channel):
            mine.copy_(added)
        else:
            mine.index_copy_(0, receivers, added)
