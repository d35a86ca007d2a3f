"""What travels: the models, and what an algorithm or the optimizer keeps beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from decentral.exchange.base import Exchange
from decentral.exchange.codec.base import Draw, How, Load, innermost
from decentral.exchange.robust import aggregate, aggregate_all
from decentral.loop.setup import Setup
from decentral.mixing.base import Mixing
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.run.checkpoint import Checkpoint, stacked
from decentral.schedules.progress import Progress
from decentral.traits import AggregationTraits, CodecTraits, traits_of

#: Rows as bytes, and what makes rows of such bytes.
Parcel = tuple[Tensor, Callable[[Tensor], Tensor]]

_PREFIX = "state/"
#: What a codec's memory holds of every channel: what all know of a row, and what a node heard.
_REMEMBERED = ("known", "heard")
#: Where nodes lie, others know another row than the own one, which is ``known`` to its node only.
_TOLD = "told"


class Channels:
    """The channels [n, k] of a block: what its exchange mixes, all in one round.

    ``state`` holds what the algorithm declares, sent or not, by name: [n, k] or [n, 1].
    ``memory`` is the codec's: what all know of a row, and the weighted sum of what a node heard.
    """

    def __init__(
        self,
        setup: Setup,
        exchange: Exchange,
        hosted: Sequence[int],
        rows: Tensor,
        optimizer: BlockOptimizer,
    ) -> None:
        """Serve the block of the nodes ``hosted``; the state begins as declared."""
        self.setup, self.exchange, self.rows, self.optimizer = setup, exchange, rows, optimizer
        self.kept, self.hosted = setup.kept, hosted
        parameters = setup.layout.trainable_view(rows)
        #: The columns of the rows that travel: all, or the parameters only.
        self.model = rows if setup.config.gossip_buffers else parameters
        self.state = {n: kept.first(parameters, self.model) for n, kept in self.kept.items()}
        sent = {n: self.state[n] for n, kept in self.kept.items() if kept.sent}
        #: What a codec applies to, by name, and single numbers, which travel as they are.
        self.coded = {"model": self.model}
        self.coded |= {n: value for n, value in sent.items() if not self.kept[n].scalar}
        self.scalars = [value for n, value in sent.items() if self.kept[n].scalar]
        linear = traits_of(setup.aggregation, AggregationTraits).linear
        codec = traits_of(setup.codec, CodecTraits)
        #: Whether rows travel as they are, and are only added up.
        self.plain = linear and codec.uncoded and not setup.attackers.lie
        remembered = (*_REMEMBERED, _TOLD) if setup.attackers.lie else _REMEMBERED
        self.memory = {
            f"{name}/{what}": torch.zeros_like(channel)
            for name, channel in self.coded.items()
            for what in remembered
            if codec.memory
        }

    def begin(self, mixing: Mixing) -> None:
        """Let the channels travel already; ``gossip`` with the same mixing follows."""
        mixed = self.optimizer.channels() if self.setup.config.mix_state else ()
        for channel in (*self.coded.values(), *self.scalars, *mixed):
            self.exchange.begin(channel, mixing)

    def gossip(self, mixing: Mixing, progress: Progress, part: slice | None = None) -> int:
        """Mix every channel, or ``part`` of their columns; return the wire bytes.

        Args:
            mixing: The weights of the round.
            progress: How far the run is.
            part: Columns; none: all.
        """
        wire = 0
        for name, rows in self.coded.items():
            if self.plain and part is None:
                wire += self.exchange.mix(rows, mixing)
                continue
            piece = self._part(rows, part)
            said = self._part(self._said(name, rows, progress), part)
            wire += self._mix(name, piece, said, mixing, progress.round)
            self._put(rows, part, piece)
        for channel in self.scalars:
            wire += self.exchange.mix(channel, mixing)
        if self.setup.config.mix_state:
            mixed = self.optimizer.channels()
            wire += sum(self.exchange.mix(channel, mixing) for channel in mixed)
            self.optimizer.absorb(mixed)
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

    def _mix(self, name: str, rows: Tensor, said: Tensor, mixing: Mixing, round: int) -> int:
        """Let what nodes say be heard, and take in what is heard."""
        if self.plain:
            return self.exchange.mix(rows, mixing)
        if traits_of(self.setup.codec, CodecTraits).uncoded:
            return self._aggregate(rows, said, mixing)
        return self._mix_coded(name, rows, said, mixing, round)

    def _aggregate(
        self, own: Tensor, said: Tensor, mixing: Mixing, parcel: Parcel | None = None
    ) -> int:
        """Replace rows by what the rule makes of them and of what others say; return wire bytes."""
        if mixing.messages == 0:
            return 0
        inbox, heard, wire = self.exchange.hear(said if parcel is None else parcel[0], mixing)
        inbox = inbox if parcel is None else parcel[1](inbox)
        aggregate(self.setup.aggregation, own, said, inbox, heard)
        return wire

    def _parcel(self, rows: Tensor, coded: Tensor, name: str, draw: Draw) -> Parcel | None:
        """Return coded rows as the bytes that travel to other workers, if there are any."""
        codec = innermost(self.setup.codec)
        wire = traits_of(codec, CodecTraits).wire
        if wire is None or self.exchange.workers == 1:
            return None
        how = How(self._load(name), draw, codec.settings)
        return wire.pack(rows, coded, how), lambda packed: wire.unpack(packed, coded, how)

    def _load(self, name: str) -> Load:
        return self.setup.load(name == "model" or self.kept[name].whole)

    def _said(self, name: str, rows: Tensor, progress: Progress) -> Tensor:
        """Return what nodes say: their rows, but for bad ones."""
        bad = self.setup.attackers
        draw = Draw(self.setup.config.seed, name, progress.round, self.hosted)
        return bad.said(rows, self._load(name), draw) if bad.on(progress) else rows

    def _mix_coded(self, name: str, rows: Tensor, said: Tensor, mixing: Mixing, round: int) -> int:
        """Mix rows as they are coded: x_i <- x_i + step (sum_j W_ij h_j - h_i), h what is known.

        What bad nodes say is coded like any row; to themselves they stay what they are.
        """
        known, heard = (self._remembered(name, what, rows) for what in _REMEMBERED)
        draw = Draw(self.setup.config.seed, name, round, self.hosted)
        codec, load = self.setup.codec, self._load(name)
        left = rows - known
        news = told = codec(left, load, draw)
        if self.setup.attackers.lie:
            public = self._remembered(name, _TOLD, rows)
            left = said - public
            told = codec(left, load, draw)
            public.add_(told)
        added = news.clone()
        wire = self._aggregate(added, told, mixing, self._parcel(left, told, name, draw))
        known.add_(news)
        heard.add_(added)
        rows.add_(heard - known, alpha=codec.settings.get("step", 1.0))
        return wire

    def _remembered(self, name: str, what: str, rows: Tensor) -> Tensor:
        """Return what is remembered of a channel, zeros where nothing is."""
        return self.memory[f"{name}/{what}"] if self.memory else torch.zeros_like(rows)

    def forget(self) -> None:
        """Begin to remember anew, on all workers, since who talks has changed."""
        for value in self.memory.values():
            value.zero_()

    def merge(
        self, weights: Tensor, progress: Progress, here: Sequence[int], part: slice | None = None
    ) -> int:
        """Replace every channel of the rows ``here`` by its mean; return the wire bytes.

        Args:
            weights: Weights of the merge for the hosted rows, [n].
            progress: How far the run is.
            here: Rows that take the mean.
            part: Columns; none: all.
        """
        wire = 0
        for name, rows in self.coded.items():
            piece = self._part(rows, part)
            said = self._part(self._said(name, rows, progress), part)
            mean, bytes_ = self._merged(said, weights)
            piece[here] = mean
            self._put(rows, part, piece)
            wire += bytes_
        mixed = self.optimizer.channels() if self.setup.config.mix_state else []
        for channel in (*self.scalars, *mixed):
            mean, bytes_ = self.exchange.mean(channel, weights)
            channel[here] = mean
            wire += bytes_
        if mixed:
            self.optimizer.absorb(mixed)
        return wire

    def _merged(self, said: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """Return what a global merge makes of all rows, [k], and the wire bytes.

        A rule that is no weighted sum looks at all rows of some columns, which every worker gets.
        """
        rule = self.setup.aggregation
        if traits_of(rule, AggregationTraits).linear:
            return self.exchange.mean(said, weights)
        merged = aggregate_all(rule, self.exchange.gather, said, weights)
        return merged, said.nbytes * (self.exchange.workers - 1)

    # --- by row -----------------------------------------------------------------------------------

    def zero_state(self, index: int) -> None:
        """Put the state of one row back to where it began, so that nothing in it is not finite."""
        for name, kept in self.kept.items():
            self.state[name][index] = kept.start
        for value in self.memory.values():
            value[index] = 0.0

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Return one row's state and memory as ``state/<name>``."""
        return {_PREFIX + name: value[index] for name, value in self._lasting().items()}

    def _lasting(self) -> dict[str, Tensor]:
        return {**self.state, **self.memory}

    def restore(self, checkpoint: Checkpoint, hosted: Sequence[int]) -> None:
        """Take the state of the hosted rows from a checkpoint."""
        for name, value in self._lasting().items():
            value.copy_(stacked(checkpoint, _PREFIX + name, hosted))
