"""All rows in one process: mixing is a product in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral.mixing import Mixing

#: Mean entries per row, as a share of the nodes, above which a dense product is used.
DENSE_SHARE = 0.5
#: Rows below which the row loop always wins.
DENSE_NODES = 8
#: Bytes of the scratch block that one chunk of columns uses; it should stay in a core's cache.
CHUNK_BYTES = 4 << 20


class LocalExchange:
    """The exchange of the in-process engine, over one block [N, P].

    Sparse mixings accumulate rows in ascending neighbour order, chunk by chunk of columns, so that the
    result is the same bits wherever the rows live; dense ones use a matrix product unless ``ordered``.
    """

    def __init__(self, nodes: int, ordered: bool = False) -> None:
        """Serve ``nodes`` rows."""
        self.nodes = nodes
        self.hosted = range(nodes)
        self.ordered = ordered

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        """Replace rows by their weighted sums, in place; nothing travels on a wire."""
        if mixing.messages == 0:
            return 0
        entries = mixing.messages + self.nodes
        dense = entries > DENSE_SHARE * self.nodes**2 and self.nodes >= DENSE_NODES
        if dense and not self.ordered:
            self._mix_dense(channel, mixing)
        else:
            self._mix_rows(channel, mixing)
        return 0

    def _mix_dense(self, channel: Tensor, mixing: Mixing) -> None:
        weights = torch.from_numpy(mixing.dense()).to(channel)
        for part in self._chunks(channel):
            part.copy_(weights @ part)

    def _mix_rows(self, channel: Tensor, mixing: Mixing) -> None:
        listening = np.nonzero(np.diff(mixing.indptr) > 1)[0]
        plan = [(int(i), *_entries(mixing, int(i))) for i in listening]
        target = torch.from_numpy(listening).to(channel.device)
        everyone = len(plan) == self.nodes
        for part in self._chunks(channel):
            mixed = part.new_empty(len(plan), part.shape[1])
            rows = part.unbind(0)
            for out, (_, senders, weights) in zip(mixed.unbind(0), plan, strict=True):
                torch.mul(rows[senders[0]], weights[0], out=out)
                for sender, weight in zip(senders[1:], weights[1:], strict=True):
                    out.add_(rows[sender], alpha=weight)
            if everyone:
                part.copy_(mixed)
            else:
                part.index_copy_(0, target, mixed)

    def _chunks(self, channel: Tensor) -> tuple[Tensor, ...]:
        columns = max(1024, CHUNK_BYTES // (self.nodes * channel.element_size()))
        return channel.split(columns, dim=1)

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return the weighted sum of all rows."""
        return weights.to(channel) @ channel, 0

    def gather(self, values: Tensor) -> Tensor:
        """Return the values: all nodes are here."""
        return values


def _entries(mixing: Mixing, node: int) -> tuple[list[int], list[float]]:
    senders, weights = mixing.row(node)
    return senders.tolist(), weights.tolist()
