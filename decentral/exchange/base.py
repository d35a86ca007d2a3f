"""The exchange: the one object through which rows reach other rows.

The plain one is here, too: with all rows in one process, mixing is a product in
memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from decentral.errors import RunError
from decentral.mixing.base import Integers, Mixing


class Exchange(Protocol):
    """What an engine offers to a block of ``n`` of the ``nodes`` rows; every
    channel is [n, k].

    ``hosted`` are positions: the block's place among the rows of all nodes that
    take part.
    """

    nodes: int
    hosted: range
    workers: int

    def begin(self, channel: Tensor, mixing: Mixing) -> None:
        """Let the rows of a later ``mix`` of the same travel now, while the caller
        computes.

        The channel must not change before that ``mix``.
        """
        ...

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        """Replace every row by its weighted sum, x_i <- sum_j W_ij x_j; return the
        wire bytes.
        """
        ...

    def receive(
        self, channel: Tensor, mixing: Mixing
    ) -> tuple[Tensor, NeighbourIndex, int]:
        """Return the rows that other workers send here, who receives what, and the
        wire bytes.

        For whoever makes something else of them than ``mix``; they stay there until
        the next call.
        """
        ...

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return sum_i w_i x_i over all rows, [k]; weights [n] sum to 1 over all
        nodes.
        """
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Return small values of hosted nodes [m, ...] from all workers, in node
        order.

        Every worker may give another number of them.
        """
        ...


@dataclass
class CommunicationStats:
    """What communication has cost so far, over all nodes.

    ``bytes`` is logical: active directed links x channels x row bytes, and 2 (N -
    1) rows for every global average. ``wire_bytes`` is what really left a process;
    ``measure_bytes`` is evaluation.
    """

    bytes: int = 0
    messages: int = 0
    rounds: int = 0
    wire_bytes: int = 0
    measure_bytes: int = 0

    def gossip(self, messages: int, row_bytes: int) -> None:
        """Book one gossip round."""
        self.messages += messages
        self.bytes += messages * row_bytes
        self.rounds += 1

    def average(self, nodes: int, row_bytes: int, rounds: int = 1) -> None:
        """Book one global average: 2 (N - 1) rows.

        Args:
            nodes: Nodes that take part, N.
            row_bytes: Bytes of a row as it is sent.
            rounds: Number of such averages.
        """
        self.messages += 2 * (nodes - 1)
        self.bytes += 2 * (nodes - 1) * row_bytes
        self.rounds += rounds

    def state(self) -> dict[str, int]:
        """Return the counters as a plain mapping."""
        return asdict(self)


# --- who receives what ------------------------------------------------------------


@dataclass(frozen=True)
class NeighbourIndex:
    """What a worker's nodes receive: row ``receivers[r]`` its span of ``senders``,
    itself too.

    Senders are indices of the hosted rows followed by the inbox, the rows of other
    workers that somebody here receives; ``offsets`` are where spans begin.
    """

    receivers: Integers
    senders: Integers
    weights: np.ndarray  # float64, one per sender
    offsets: Integers


def neighbour_index(mixing: Mixing, block: range, inbox: Integers) -> NeighbourIndex:
    """Return who of positions ``block`` receives what, rows ``inbox`` (ascending)
    from elsewhere.

    A row that nothing changes is left out: adding 0 to -0.0 would change its bits.

    Args:
        mixing: The weights of the round.
        block: Positions hosted here.
        inbox: Positions, ascending, whose rows came from other workers.
    """
    indptr = mixing.indptr[block.start : block.stop + 1]
    degrees = np.diff(indptr)
    receiving = mixing.changes()[block.start : block.stop]
    # Compressed rows: the entries of a block of positions lie together.
    span = slice(indptr[0], indptr[-1])
    incoming = np.repeat(receiving, degrees)
    senders, weights = mixing.senders[span][incoming], mixing.weights[span][incoming]
    here = (senders >= block.start) & (senders < block.stop)
    # Meaningless for senders that are hosted here; ``where`` below takes the right
    # one.
    elsewhere = len(block) + np.searchsorted(inbox, senders)
    return NeighbourIndex(
        np.flatnonzero(receiving),
        np.where(here, senders - block.start, elsewhere),
        weights,
        # The exclusive sum: where each span begins, not where it ends.
        np.cumsum(degrees[receiving]) - degrees[receiving],
    )


# --- where workers meet -----------------------------------------------------------


@dataclass(frozen=True)
class Rendezvous:
    """How a worker finds the others.

    ``address`` is this worker's own, the one to which others connect; ``store`` the
    host and port of `decentral.exchange.process_group.open_store`; ``timeout_s``
    the longest wait for others; ``prefix`` is new for every group.
    """

    rank: int
    world: int
    store: tuple[str, int]
    address: str
    timeout_s: float
    prefix: str


class LostPeer(RunError):
    """Other workers are out of reach."""


# --- all rows in one process ------------------------------------------------------


#: Mean entries per row, as a share of the nodes, above which a dense product is
#: faster.
DENSE_SHARE = 0.5
#: Nodes below which it never is.
DENSE_NODES = 8
#: Bytes of one chunk of columns; with its sums it should stay in a core's
#: second-level cache.
CHUNK_BYTES = 1 << 20
#: An inbox without rows.
NOBODY = np.zeros(0, np.int64)


class LocalExchange:
    """The exchange of the in-process engine, over one block [N, P].

    Sparse mixings add up rows in ascending neighbour order, so that the result is
    the same bits wherever the rows live; dense ones use a matrix product unless
    ``ordered``. Both go chunk by chunk of columns.
    """

    def __init__(self, nodes: int, ordered: bool = False) -> None:
        """Serve ``nodes`` rows."""
        self.nodes = nodes
        self.hosted, self.workers = range(nodes), 1
        self.ordered = ordered

    def begin(self, channel: Tensor, mixing: Mixing) -> None:
        """Do nothing: rows in one memory need not travel."""

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        """Replace rows by their weighted sums, in place; nothing travels on a wire."""
        if mixing.messages == 0:
            return 0
        entries = len(mixing.senders)
        dense = entries > DENSE_SHARE * self.nodes**2 and self.nodes >= DENSE_NODES
        if dense and not self.ordered:
            self._mix_dense(channel, mixing)
        else:
            self._mix_sparse(channel, mixing)
        return 0

    def _mix_dense(self, channel: Tensor, mixing: Mixing) -> None:
        weights = torch.from_numpy(mixing.dense()).to(channel)
        for part in self._chunks(channel):
            # The product is a tensor of its own, so every row is read before any is
            # replaced.
            part.copy_(weights @ part)

    def _mix_sparse(self, channel: Tensor, mixing: Mixing) -> None:
        neighbours, device = neighbour_index(mixing, self.hosted, NOBODY), channel.device
        if not len(neighbours.receivers):
            return
        senders = torch.from_numpy(neighbours.senders).to(device)
        offsets = torch.from_numpy(neighbours.offsets).to(device)
        receivers = torch.from_numpy(neighbours.receivers).to(device)
        # Rounded from float64 to the rows' type, as every other exchange does: same
        # bits.
        weights = torch.from_numpy(neighbours.weights).to(channel)
        for part in self._chunks(channel):
            sums = ordered_sums(part, senders, weights, offsets)
            # Rows that receive nothing are left out rather than multiplied by 1:
            # they keep their bits.
            if len(receivers) == self.nodes:
                part.copy_(sums)
            else:
                part.index_copy_(0, receivers, sums)

    def receive(
        self, channel: Tensor, mixing: Mixing
    ) -> tuple[Tensor, NeighbourIndex, int]:
        """Return no rows of other workers, since there are none, and who receives
        what.
        """
        return channel[:0], neighbour_index(mixing, self.hosted, NOBODY), 0

    def _chunks(self, channel: Tensor) -> tuple[Tensor, ...]:
        # Many nodes would make chunks so narrow that the calls cost more than the
        # sums.
        columns = max(64, CHUNK_BYTES // (self.nodes * channel.element_size()))
        return channel.split(columns, dim=1)

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return the weighted sum of all rows."""
        return weights.to(channel) @ channel, 0

    def gather(self, values: Tensor) -> Tensor:
        """Return the values: all nodes are here."""
        return values


def ordered_sums(
    rows: Tensor, senders: Tensor, weights: Tensor, offsets: Tensor
) -> Tensor:
    """Return weighted sums of rows [n, k]: sum r adds up
    ``senders[offsets[r]:offsets[r + 1]]``.

    Every sum begins at zero and adds in the order given, column by column, so that
    its bits depend neither on the other rows nor on how the columns are divided.

    Args:
        rows: Rows, [n, k].
        senders: Row of every term, [terms].
        weights: Weight of every term, [terms].
        offsets: Where the terms of each sum begin, and the end, [sums + 1].
    """
    return torch.embedding_bag(rows, senders, offsets, False, 0, False, weights)[0]
