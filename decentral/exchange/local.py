"""All rows in one process: mixing is a product in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral.exchange.base import NeighbourIndex, neighbour_index
from decentral.mixing.base import Mixing

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
