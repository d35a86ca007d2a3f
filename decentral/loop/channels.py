"""What travels: the models, and what an algorithm or the optimizer keeps beside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from decentral.exchange.aggregation import aggregate, aggregate_all
from decentral.exchange.base import Exchange
from decentral.exchange.codec.base import (
    CodecContext,
    RngContext,
    TensorLayout,
    code_rows,
    innermost,
)
from decentral.loop.setup import CommunicationSetup
from decentral.mixing.base import Mixing
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.run.checkpoint import Checkpoint, stack_nodes
from decentral.schedules.progress import Progress
from decentral.topology.labels import NodeId, RowIndex
from decentral.traits import AggregationTraits, CodecTraits, traits_of

#: Rows as bytes, and what makes rows of such bytes.
MessageBuffer = tuple[Tensor, Callable[[Tensor], Tensor]]

_PREFIX = "state/"
#: What a codec's memory holds of every channel: the error-feedback state, which is
#: what all know of a row, and what a node received. So they are called on disk.
_REMEMBERED = ("known", "heard")
#: Where nodes lie, others hold another copy than the own one, which is ``known`` to
#: its node only.
_PUBLIC_COPY = "told"


class Channels:
    """The channels [n, k] of a block: what its exchange mixes, all in one round.

    ``state`` holds what the algorithm declares, sent or not, by name: [n, k] or [n,
    1]. ``memory`` is the codec's: what all know of a row, and the weighted sum of
    what a node received.
    """

    def __init__(
        self,
        setup: CommunicationSetup,
        exchange: Exchange,
        hosted: Sequence[NodeId],
        rows: Tensor,
        optimizer: BlockOptimizer | None = None,
    ) -> None:
        """Serve the block of the nodes ``hosted``; the state begins as declared.

        Args:
            setup: What is sent, and how.
            exchange: Through which the channels meet.
            hosted: The nodes.
            rows: Their rows, [n, P].
            optimizer: Whose state is mixed where a run asks for it.
        """
        self.setup, self.exchange, self.rows = setup, exchange, rows
        self.mixed = optimizer if setup.config.mix_state else None
        self.kept, self.hosted = setup.kept, hosted
        parameters = setup.layout.trainable_view(rows)
        #: The columns of the rows that travel: all, or the parameters only.
        self.model = rows if setup.config.gossip_buffers else parameters
        self.state = {
            n: kept.first(parameters, self.model) for n, kept in self.kept.items()
        }
        sent = {n: self.state[n] for n, kept in self.kept.items() if kept.sent}
        #: What a codec applies to, by name, and single numbers, which travel as
        #: they are.
        self.coded = {"model": self.model}
        self.coded |= {n: value for n, value in sent.items() if not self.kept[n].scalar}
        # A codec saves nothing on one number, and push-sum divides by it: it must
        # be exact.
        self.scalars = [value for n, value in sent.items() if self.kept[n].scalar]
        linear = traits_of(setup.aggregation, AggregationTraits).linear
        codec = traits_of(setup.codec, CodecTraits)
        #: Where an algorithm wants to have what is made of the models, unrounded.
        self.sums = next((self.state[n] for n, k in self.kept.items() if k.sums), None)
        #: Whether rows travel as they are, and are only added up.
        self.plain = linear and codec.uncoded and not setup.attackers.falsifies
        remembered = (
            (*_REMEMBERED, _PUBLIC_COPY) if setup.attackers.falsifies else _REMEMBERED
        )
        self.memory = {
            f"{name}/{what}": torch.zeros_like(channel)
            for name, channel in self.coded.items()
            for what in remembered
            if codec.memory
        }

    def begin(self, mixing: Mixing) -> None:
        """Let the channels travel already; ``gossip`` with the same mixing follows."""
        mixed = self.mixed.channels() if self.mixed else ()
        for channel in (*self.coded.values(), *self.scalars, *mixed):
            self.exchange.begin(channel, mixing)

    def gossip(
        self, mixing: Mixing, progress: Progress, part: slice | None = None
    ) -> int:
        """Mix every channel, or ``part`` of their columns; return the wire bytes.

        Args:
            mixing: The weights of the round.
            progress: How far the run is.
            part: Columns; none: all.
        """
        wire = 0
        for name, rows in self.coded.items():
            # The way of nearly every run: in place, without a copy, a codec or an
            # attack.
            if self.plain and part is None:
                wide = self.sums if name == "model" else None
                mixed = rows if wide is None else wide.copy_(rows)
                wire += self.exchange.mix(mixed, mixing)
                if wide is not None:
                    rows.copy_(wide)
                continue
            piece = self._part(rows, part)
            sent = self._part(self._rows_to_send(name, rows, progress), part)
            wire += self._mix(name, piece, sent, mixing, progress.round)
            self._put(rows, part, piece)
            if self.sums is not None and name == "model":
                self.sums.copy_(rows)
        for channel in self.scalars:
            wire += self.exchange.mix(channel, mixing)
        if self.mixed is not None:
            mixed = self.mixed.channels()
            wire += sum(self.exchange.mix(channel, mixing) for channel in mixed)
            self.mixed.absorb(mixed)
        return wire

    def _columns(self, part: slice) -> slice:
        """Return the columns of a row that belong to some of the parameters.

        What stands behind the parameters goes with the last of them.
        """
        width = self.setup.layout.trainable_view(self.rows).shape[1]
        return slice(part.start, None if part.stop == width else part.stop)

    def _part(self, rows: Tensor, part: slice | None) -> Tensor:
        return rows if part is None else rows[:, self._columns(part)].contiguous()

    def _put(self, rows: Tensor, part: slice | None, piece: Tensor) -> None:
        if part is not None:
            rows[:, self._columns(part)] = piece

    def _mix(
        self, name: str, rows: Tensor, sent: Tensor, mixing: Mixing, round: int
    ) -> int:
        """Let what nodes send be received, and take in what is received."""
        if self.plain:
            return self.exchange.mix(rows, mixing)
        if traits_of(self.setup.codec, CodecTraits).uncoded:
            return self._aggregate(rows, sent, mixing)
        return self._mix_coded(name, rows, sent, mixing, round)

    def _aggregate(
        self,
        own: Tensor,
        sent: Tensor,
        mixing: Mixing,
        buffer: MessageBuffer | None = None,
    ) -> int:
        """Replace rows by what the rule makes of them and of what others send;
        return the bytes.
        """
        if mixing.messages == 0:
            return 0
        inbox, neighbours, wire = self.exchange.receive(
            sent if buffer is None else buffer[0], mixing
        )
        # Hosted rows are taken as they were coded, never packed: a wire gives the
        # same bits.
        inbox = inbox if buffer is None else buffer[1](inbox)
        aggregate(self.setup.aggregation, own, sent, inbox, neighbours)
        return wire

    def _message_buffer(
        self, rows: Tensor, coded: Tensor, name: str, draw: RngContext
    ) -> MessageBuffer | None:
        """Return coded rows as the bytes that travel to other workers, if there are
        any.
        """
        # ``choco`` only says what is coded; the bytes are those of the codec within
        # it.
        codec = innermost(self.setup.codec)
        wire = traits_of(codec, CodecTraits).wire
        if wire is None or self.exchange.workers == 1:
            return None
        context = CodecContext(self._layout(name), draw, codec.settings)
        return wire.pack(rows, coded, context), lambda packed: wire.unpack(
            packed, coded, context
        )

    def _layout(self, name: str) -> TensorLayout:
        return self.setup.tensor_layout(name == "model" or self.kept[name].full_width)

    def _rows_to_send(self, name: str, rows: Tensor, progress: Progress) -> Tensor:
        """Return what nodes send: their rows, but for bad ones."""
        bad = self.setup.attackers
        draw = RngContext(self.setup.config.seed, name, progress.round, self.hosted)
        return (
            bad.falsify_rows(rows, self._layout(name), draw) if bad.on(progress) else rows
        )

    def _mix_coded(
        self, name: str, rows: Tensor, sent: Tensor, mixing: Mixing, round: int
    ) -> int:
        """Mix rows as they are coded: x_i <- x_i + step (sum_j W_ij h_j - h_i), h
        what is known.

        What bad nodes send is coded like any row; to themselves they stay what they
        are.
        """
        feedback, received = (self._memory_of(name, what, rows) for what in _REMEMBERED)
        draw = RngContext(self.setup.config.seed, name, round, self.hosted)
        codec, layout = self.setup.codec, self._layout(name)
        # Without memory the copies are zeros: the row itself is coded, and step is
        # 1.
        residual = rows - feedback
        delta = sent_delta = code_rows(codec, residual, layout, draw)
        # A deceiving node goes on as if it had not: its own copy follows its true
        # row, and what the others hold of it is kept apart.
        if self.setup.attackers.falsifies:
            public = self._memory_of(name, _PUBLIC_COPY, rows)
            residual = sent - public
            sent_delta = code_rows(codec, residual, layout, draw)
            public.add_(sent_delta)
        # Becomes sum_j W_ij delta_j, with the own delta at the diagonal.
        added = delta.clone()
        wire = self._aggregate(
            added,
            sent_delta,
            mixing,
            self._message_buffer(residual, sent_delta, name, draw),
        )
        feedback.add_(delta)
        # The sum over all neighbours is kept, not a copy of each: a row per node
        # instead of one per link. It holds while weights stay, so ``choco`` refuses
        # graphs that change.
        received.add_(added)
        rows.add_(received - feedback, alpha=codec.settings.get("step", 1.0))
        return wire

    def _memory_of(self, name: str, what: str, rows: Tensor) -> Tensor:
        """Return what is remembered of a channel, zeros where nothing is."""
        return self.memory[f"{name}/{what}"] if self.memory else torch.zeros_like(rows)

    def forget(self) -> None:
        """Begin to remember anew, on all workers, since who takes part has changed."""
        # With other weights the sums of what was received belong to no mixing any
        # more.
        for value in self.memory.values():
            value.zero_()

    def merge(
        self,
        weights: Tensor,
        progress: Progress,
        here: Sequence[RowIndex],
        part: slice | None = None,
    ) -> int:
        """Replace every channel of the rows ``here`` by its mean; return the wire
        bytes.

        Args:
            weights: Weights of the merge for the hosted rows, [n].
            progress: How far the run is.
            here: Rows that take the mean.
            part: Columns; none: all.
        """
        wire = 0
        for name, rows in self.coded.items():
            if self.plain and part is None:
                mean, bytes_ = self.exchange.mean(rows, weights)
                rows[here] = mean
                wire += bytes_
                continue
            piece = self._part(rows, part)
            sent = self._part(self._rows_to_send(name, rows, progress), part)
            mean, bytes_ = self._merge_rows(sent, weights)
            # Only rows ``here``: unavailable nodes give nothing to a merge and get
            # nothing.
            piece[here] = mean
            self._put(rows, part, piece)
            wire += bytes_
        mixed = self.mixed.channels() if self.mixed else []
        for channel in (*self.scalars, *mixed):
            mean, bytes_ = self.exchange.mean(channel, weights)
            channel[here] = mean
            wire += bytes_
        if self.mixed is not None:
            self.mixed.absorb(mixed)
        return wire

    def _merge_rows(self, sent: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return what a global merge makes of all rows, [k], and the wire bytes.

        A rule that is no weighted sum looks at all rows of some columns, which
        every worker gets.
        """
        rule = self.setup.aggregation
        if traits_of(rule, AggregationTraits).linear:
            return self.exchange.mean(sent, weights)
        merged = aggregate_all(rule, self.exchange.gather, sent, weights)
        # Every worker sends its rows to all others, chunk by chunk.
        return merged, sent.nbytes * (self.exchange.workers - 1)

    # --- by row -------------------------------------------------------------------

    def zero_state(self, index: RowIndex) -> None:
        """Put the state of one row back to where it began, so that nothing in it is
        not finite.
        """
        for name, kept in self.kept.items():
            self.state[name][index] = kept.start
        for value in self.memory.values():
            value[index] = 0.0

    def states(self) -> list[dict[str, Tensor]]:
        """Return the state and memory of every row as ``state/<name>``."""
        found: list[dict[str, Tensor]] = [{} for _ in self.hosted]
        for name, value in self._lasting().items():
            for own, part in zip(found, value.unbind(), strict=True):
                own[_PREFIX + name] = part
        return found

    def _lasting(self) -> dict[str, Tensor]:
        return {**self.state, **self.memory}

    def restore(self, checkpoint: Checkpoint, hosted: Sequence[NodeId]) -> None:
        """Take the state of the hosted rows from a checkpoint."""
        for name, value in self._lasting().items():
            value.copy_(stack_nodes(checkpoint, _PREFIX + name, hosted))
