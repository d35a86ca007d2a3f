"""What travels: the models, and what an algorithm or the optimizer keeps beside them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from decentral.exchange import Exchange
from decentral.loop.setup import Setup
from decentral.mixing import Mixing
from decentral.optim import BlockOptimizer
from decentral.run.checkpoint import Checkpoint, stacked

_PREFIX = "state/"


class Channels:
    """The channels [n, k] of a block: what its exchange mixes, all in one round.

    ``state`` holds what the algorithm declares, sent or not, by name: [n, k] or [n, 1].
    """

    def __init__(
        self, setup: Setup, exchange: Exchange, rows: Tensor, optimizer: BlockOptimizer
    ) -> None:
        """Serve a block; the state begins as declared."""
        self.setup, self.exchange, self.rows, self.optimizer = setup, exchange, rows, optimizer
        self.kept = setup.kept
        model = setup.layout.trainable_view(rows)
        self.state = {name: kept.first(model, self.model) for name, kept in self.kept.items()}

    @property
    def model(self) -> Tensor:
        """The columns of the rows that travel: all, or the parameters only."""
        layout = self.setup.layout
        return self.rows if self.setup.config.gossip_buffers else layout.trainable_view(self.rows)

    def _sent(self) -> list[Tensor]:
        """Return every channel in a fixed order; ``_absorb`` follows where they were mixed."""
        self._copied = self.optimizer.channels() if self.setup.config.mix_state else []
        sent = [self.state[name] for name, kept in self.kept.items() if kept.sent]
        return [self.model, *sent, *self._copied]

    def _absorb(self) -> None:
        if self._copied:
            self.optimizer.absorb(self._copied)

    def begin(self, mixing: Mixing) -> None:
        """Let the channels travel already; ``gossip`` with the same mixing follows."""
        for channel in self._sent():
            self.exchange.begin(channel, mixing)

    def gossip(self, mixing: Mixing) -> int:
        """Mix every channel; return the wire bytes."""
        wire = sum(self.exchange.mix(channel, mixing) for channel in self._sent())
        self._absorb()
        return wire

    def merge(self, weights: Tensor) -> int:
        """Replace every channel by its weighted mean over all nodes; return the wire bytes."""
        wire = 0
        for channel in self._sent():
            mean, bytes_ = self.exchange.mean(channel, weights)
            channel.copy_(mean.expand_as(channel))
            wire += bytes_
        self._absorb()
        return wire

    # --- by row -----------------------------------------------------------------------------------

    def silence(self, index: int) -> None:
        """Put the state of one row back to where it began, so that nothing sick is left in it."""
        for name, kept in self.kept.items():
            self.state[name][index] = kept.start

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Return one row's state as ``state/<name>``."""
        return {_PREFIX + name: value[index] for name, value in self.state.items()}

    def restore(self, checkpoint: Checkpoint, hosted: Sequence[int]) -> None:
        """Take the state of the hosted rows from a checkpoint."""
        for name, value in self.state.items():
            value.copy_(stacked(checkpoint, _PREFIX + name, hosted))
