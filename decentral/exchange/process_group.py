"""The exchange between processes: rows travel by torch.distributed, Gloo on CPUs,
NCCL on GPUs.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from decentral import private
from decentral.exchange.base import DENSE_NODES, LostPeer, NeighbourIndex, Rendezvous
from decentral.exchange.send_receive import (
    Message,
    SendReceivePlan,
    add_up,
    column_chunks,
    is_average,
    rows_of,
    same,
    send_receive_plan,
)
from decentral.mixing.base import Mixing

#: Rows shorter than this are packed, all for one worker in one message; a longer
#: one travels directly from where it lies.
PACKED_BYTES = 256 << 10
#: Columns of longer rows travel, and are added up, in chunks of at most this size.
SENT_BYTES = 4 << 20
#: Columns of a global average that are summed, then reduced, at a time.
REDUCED_BYTES = 16 << 20
#: It exports little of what it offers, as far as type checkers see.
_dist: Any = dist
#: What was posted, and to whom: a worker, or None for all of them.
Works = list[tuple[int | None, Any]]
#: Tags count up to here and start again.
TAGS = 1 << 30


def open_store(address: str, port: int = 0) -> Any:
    """Return a store for workers to meet at, on a ``.port`` of ``address`` alone;
    0: a free one. It serves while somebody holds it; every worker connects to it.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family)
    port = server.getsockname()[1]
    # The store takes the socket over, and closes it.
    return _dist.TCPStore(
        address or "localhost",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=server.detach(),
    )


def join_store(address: str, port: int, timeout_s: float) -> Any:
    """Return a store that another serves, waiting at most ``timeout_s`` seconds."""
    wait = timedelta(seconds=timeout_s)
    return _dist.TCPStore(address, port, is_master=False, timeout=wait)


@dataclass
class _Round:
    """A round under way on one channel: what was posted, chunk by chunk of the columns."""

    mixing: Mixing
    plan: SendReceivePlan
    inbox: Tensor  # [received, k]
    chunks: list[tuple[slice, Works]] = field(default_factory=list)
    sent: int = 0  # bytes


class ProcessGroupExchange:
    """The exchange of a worker that hosts one of several blocks of rows.

    Sparse mixings, and all if ``ordered``, give the bits of
    ``LocalExchange(nodes, ordered=True)`` for any blocks. Rows of other workers are
    rounded to ``wire`` on their way, if it is given; global averages are not.
    ``wait_s`` and ``mix_s`` are the seconds spent so far on waiting for others and
    on adding up; on a GPU, where the host does not wait, they mean little.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        blocks: Sequence[range],
        device: torch.device,
        *,
        ordered: bool = False,
        wire: torch.dtype | None = None,
    ) -> None:
        """Meet the other workers.

        Args:
            rendezvous: Where they meet.
            blocks: The positions that each worker hosts, in order.
            device: Where rows lie.
            ordered: Whether dense mixings, too, add up in the order of a sparse
                one.
            wire: What rows of other workers are rounded to on their way; None: not
                at all.
        """
        self.nodes, self.hosted = blocks[-1].stop, blocks[rendezvous.rank]
        self.workers = rendezvous.world
        self.wait_s = self.mix_s = 0.0
        self._rendezvous, self._blocks, self._device = rendezvous, blocks, device
        self._ordered, self._wire = ordered, wire
        # Counts up alike on all workers, which post the same rounds in the same
        # order: tags need no agreement, and a late message cannot be taken for one
        # of the next round.
        self._tag = 0
        # By whether rows are packed: a round may have wide and narrow channels.
        self._known: dict[bool, tuple[Mixing, SendReceivePlan]] = {}
        self._under_way: dict[tuple[int, ...], _Round] = {}
        self._spare: list[Tensor] = []  # inboxes of earlier rounds, flat uint8
        self._group: Any = None
        if rendezvous.world > 1:
            with self._contact():
                self._group = _group(rendezvous, device)

    def close(self) -> None:
        """Leave the group; the exchange can mix no more."""
        self._under_way.clear()
        if self._group is not None:
            self._group.shutdown()
        self._group = None

    # --- mixing -------------------------------------------------------------------

    def begin(self, channel: Tensor, mixing: Mixing) -> None:
        """Post the messages of a later ``mix(channel, mixing)``: they travel in the
        meantime.

        Until then the channel must not be written. All workers begin and mix in the
        same order.
        """
        if mixing.messages and not self._averages(mixing):
            self._under_way[_identity(channel)] = self._post(channel, mixing)

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        """Replace rows by their weighted sums, in place; return the bytes that this
        worker sent.
        """
        if mixing.messages == 0:
            return 0
        if self._averages(mixing):
            return self._average(channel)
        now = self._under_way.pop(_identity(channel), None) or self._post(channel, mixing)
        assert same(now.mixing, mixing), "another mixing was begun on this channel"
        for columns, works in now.chunks:
            self._wait(works)
            begin = time.perf_counter()
            add_up(channel[:, columns], now.inbox[:, columns], now.plan)
            self.mix_s += time.perf_counter() - begin
        self._spare.append(now.inbox)
        return now.sent

    def receive(
        self, channel: Tensor, mixing: Mixing
    ) -> tuple[Tensor, NeighbourIndex, int]:
        """Return the rows that other workers send here, who receives what, and the
        bytes sent.

        The rows stay there until the exchange is used again.
        """
        now = self._post(channel, mixing)
        for _, works in now.chunks:
            self._wait(works)
        # Given back although the caller still reads it: the next use may overwrite
        # it.
        self._spare.append(now.inbox)
        return now.inbox.to(channel.dtype), now.plan.neighbours, now.sent

    def _averages(self, mixing: Mixing) -> bool:
        return not self._ordered and mixing.nodes >= DENSE_NODES and is_average(mixing)

    def _average(self, channel: Tensor) -> int:
        shares = torch.full((len(self.hosted),), 1 / self.nodes, dtype=torch.float64)
        mean, sent = self.mean(channel, shares)
        channel.copy_(mean.expand_as(channel))
        return sent

    def _post(self, channel: Tensor, mixing: Mixing) -> _Round:
        travels = self._wire_type(channel)
        width = channel.shape[1]
        packed = width * travels.itemsize < PACKED_BYTES
        plan = self._plan(mixing, packed)
        now = _Round(mixing, plan, self._space(plan.inbox, width, travels))
        chunks = column_chunks(width, width if packed else SENT_BYTES // travels.itemsize)
        tags = [
            (self._tag + place * plan.total_rows) % TAGS for place in range(len(chunks))
        ]
        self._tag = (self._tag + len(chunks) * plan.total_rows) % TAGS
        # NCCL wants a round's operations started together, and makes one work of
        # them. Gloo tells a sender that it is expected on the line on which rows
        # leave: it must not wait for them.
        together = bool(plan.messages) and self._group.supports_coalescing
        early = [
            [] if together else self._receive(*each, now)
            for each in zip(chunks, tags, strict=True)
        ]
        for columns, tag, works in zip(chunks, tags, early, strict=True):
            buffers = self._buffers(channel, columns, now, travels)
            if together:
                private.start_coalescing(self._group)
                works += self._receive(columns, tag, now)
            works += self._send(buffers, tag, now)
            if together:
                # One work for all peers: where it fails, the first of them is
                # named.
                works = [(works[0][0], private.end_coalescing(self._group))]
            now.chunks.append((columns, works))
            now.sent += sum(buffer.nbytes for buffer in buffers.values())
        return now

    def _buffers(
        self, channel: Tensor, columns: slice, now: _Round, travels: torch.dtype
    ) -> dict[int, Tensor]:
        """Return the columns that leave, by index."""
        begin = time.perf_counter()
        buffers = {
            message.index: rows_of(channel, columns, message).to(travels).contiguous()
            for message in now.plan.outgoing
        }
        self.mix_s += time.perf_counter() - begin
        return buffers

    def _receive(self, columns: slice, tag: int, now: _Round) -> Works:
        """Post what is received of some columns, in the order of their index."""
        return [
            self._post_message(
                self._group.recv, rows_of(now.inbox, columns, message), message, tag
            )
            for message in now.plan.incoming
        ]

    def _send(self, buffers: dict[int, Tensor], tag: int, now: _Round) -> Works:
        """Post what leaves, in the order of their index."""
        return [
            self._post_message(self._group.send, buffers[message.index], message, tag)
            for message in now.plan.outgoing
        ]

    def _post_message(
        self, operation: Callable[..., Any], rows: Tensor, message: Message, tag: int
    ) -> tuple[int, Any]:
        try:
            return message.peer, operation([rows], message.peer, tag + message.index)
        except RuntimeError as error:
            raise self._make_lost_peer(message.peer, error) from error

    def _plan(self, mixing: Mixing, packed: bool) -> SendReceivePlan:
        """Return this worker's part, remembered for as long as mixings stay equal."""
        known = self._known.get(packed)
        if known is None or not same(known[0], mixing):
            known = (
                mixing,
                send_receive_plan(mixing, self._blocks, self._rendezvous.rank, packed),
            )
            self._known[packed] = known
        return known[1]

    def _wire_type(self, channel: Tensor) -> torch.dtype:
        # A single number per node, the weight of push-sum, say, costs nothing and
        # must be exact.
        rounded = channel.is_floating_point() and channel.shape[1] > 1
        return self._wire if self._wire and rounded else channel.dtype

    def _space(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Return an inbox [rows, width], in the memory of an earlier one where it is enough."""
        spare = self._spare.pop() if self._spare else None
        if spare is not None and spare.shape == (rows, width) and spare.dtype == dtype:
            return spare
        needed = rows * width * dtype.itemsize
        storage = None if spare is None else spare.untyped_storage()
        if storage is None or len(storage) < needed:
            return torch.empty(rows, width, dtype=dtype, device=self._device)
        whole = torch.tensor([], dtype=dtype, device=self._device).set_(storage)
        return whole[: rows * width].view(rows, width)

    # --- all together -------------------------------------------------------------

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return sum_i w_i x_i over all rows, [k], and the bytes sent; weights
        float64 [n].

        The hosted rows are summed chunk by chunk while earlier chunks are reduced
        among workers.
        """
        weights = weights.to(channel)
        total = channel.new_empty(channel.shape[1])
        works: list[Any] = []
        for columns in column_chunks(len(total), REDUCED_BYTES // channel.element_size()):
            begin = time.perf_counter()
            torch.mv(channel[:, columns].T, weights, out=total[columns])
            self.mix_s += time.perf_counter() - begin
            if self._group is not None:
                with self._contact():
                    works.append(self._group.allreduce([total[columns]]))
        self._wait([(None, work) for work in works])
        # A ring: every worker passes on all but its own share, once to add and once
        # to tell.
        return total, 2 * (
            self._rendezvous.world - 1
        ) * total.nbytes // self._rendezvous.world

    def gather(self, values: Tensor) -> Tensor:
        """Return the values [n_i, ...] of all workers one after the other; n_i may
        be 0.
        """
        if self._group is None:
            return values
        mine = values.to(self._device)
        counts = (
            self._all(torch.tensor([len(mine)], device=self._device)).flatten().tolist()
        )
        # Collectives take equally many from each; counts say what is padding.
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        found = (
            self._all(padded)
            if padded.numel()
            else padded.expand(len(counts), *padded.shape)
        )
        parts = [part[:count] for part, count in zip(found, counts, strict=True)]
        return torch.cat(parts).to(values.device)

    def _all(self, values: Tensor) -> Tensor:
        """Return equally many values of every worker, [world, ...]; they travel as
        plain bytes.
        """
        found = values.new_empty(self._rendezvous.world, *values.shape)
        flat = found.flatten().view(torch.uint8), values.flatten().view(torch.uint8)
        with self._contact():
            work = private.all_gather(self._group, *flat)
        self._wait([(None, work)])
        return found

    # --- waiting ------------------------------------------------------------------

    def _wait(self, works: Works) -> None:
        """Wait for what was posted to workers, or to all of them."""
        begin = time.perf_counter()
        for peer, work in works:
            try:
                work.wait()
            except RuntimeError as error:
                raise self._make_lost_peer(peer, error) from error
        self.wait_s += time.perf_counter() - begin

    def _make_lost_peer(self, peer: int | None, error: RuntimeError) -> LostPeer:
        whom, cause = "the others" if peer is None else f"worker {peer}", _cause(error)
        slow = (
            f", or raise engine.progress_s, now {self._rendezvous.timeout_s:g}, if one is "
            "only slow"
            if "timed out" in cause.lower() or "timeout" in cause.lower()
            else ""
        )
        return LostPeer(
            f"worker {self._rendezvous.rank} lost contact with {whom} ({cause}); look for "
            f"the first failure among the workers{slow}."
        )

    @contextmanager
    def _contact(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._make_lost_peer(None, error) from error


def _group(rendezvous: Rendezvous, device: torch.device) -> Any:
    """Return a group of the workers, connected through their own addresses."""
    timeout = timedelta(seconds=rendezvous.timeout_s)
    meeting = _dist.TCPStore(*rendezvous.store, is_master=False, timeout=timeout)
    who = _dist.PrefixStore(rendezvous.prefix, meeting), rendezvous.rank, rendezvous.world
    if device.type == "cuda":
        return private.nccl_group(_dist.ProcessGroupNCCL, *who, timeout, device)
    return private.gloo_group(_dist.ProcessGroupGloo, *who, timeout, rendezvous.address)


def _cause(error: Exception) -> str:
    """Return the core of what torch says: without source lines and advice."""
    text = re.sub(r"^\[\S+?:\d+\]\s*", "", str(error).splitlines()[0])
    return text.split(". ")[0].rstrip(".")


def _identity(channel: Tensor) -> tuple[int, ...]:
    return channel.data_ptr(), *channel.shape, *channel.stride()
