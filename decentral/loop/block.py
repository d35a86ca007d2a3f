"""A worker's block of rows at work: what algorithms act on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from decentral.exchange.base import Exchange
from decentral.loop.callbacks import Callbacks
from decentral.loop.channels import Channels
from decentral.loop.health import Announce, finite_rows
from decentral.loop.hosted import HostedRows
from decentral.loop.participation import Participants
from decentral.loop.pipeline import Pipeline
from decentral.loop.setup import Setup, Simulated
from decentral.metrics.base import declared_records
from decentral.network.planning import Membership, RoundAction
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.records import records_of
from decentral.sampling import Sampler
from decentral.topology.labels import RowIndex


class Block(HostedRows[Setup]):
    """The hosted rows [n, P] with their gradients, optimizer state, data and
    counters.
    """

    simulation: Simulated | None = None  # what trains the rows, or rounds do

    def __init__(
        self,
        setup: Setup,
        exchange: Exchange,
        announce: Announce,
        members: Membership | None = None,
    ) -> None:
        """Put every hosted node at its first row."""
        config = setup.config
        super().__init__(setup, exchange, announce, members, setup.initial_rows)
        self.grads = torch.zeros_like(self.rows)
        self.x = setup.layout.trainable_view(self.rows)  # [n, k], the parameters
        self.g = setup.layout.trainable_view(self.grads)  # [n, k], their gradients
        #: What makes an algorithm one that trains, as far as it has been called.
        self.called: set[str] = set()
        self._equip(setup, config.node_lr)
        self.channels = Channels(setup, exchange, self.hosted, self.rows, self.optimizer)
        self.callbacks = Callbacks(config.callbacks)
        self.records = records_of(declared_records(config.metrics))

    def _equip(self, setup: Setup, node_lr: Mapping[Any, float]) -> None:
        """Take what computes gradients of the rows, and updates."""
        partial = self.planner if self.planner and self.planner.participation else None
        # Rows that do not all go on count their updates by themselves.
        apart = setup.in_events or partial is not None
        where = setup.layout, self.rows, self.grads
        self.optimizer = BlockOptimizer(setup.optimizer, *where, setup.course, apart)
        self.sampler = Sampler(setup.train, setup.plan, self.hosted, setup.config.seed)
        self.scaled = [i for i, node in enumerate(self.hosted) if node in node_lr]
        factors = [node_lr[self.hosted[i]] for i in self.scaled]
        self.factors = self.rows.new_tensor(factors)[:, None]
        self.pipeline = Pipeline(
            setup, self.rows, self.integers, self.grads, self.sampler, self.hosted
        )
        self.participants = partial and Participants(partial, self.pipeline)  # None: all

    # --- progress -----------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.setup.rate(self.progress)

    @property
    def is_over(self) -> bool:
        """Whether no step is left, or a callback has stopped the run."""
        stopped = self.callbacks.stopped is not None
        return stopped or self.step >= self.setup.config.steps

    def finish_step(self) -> None:
        """Count the step that was just done."""
        self._notice(torch.isfinite(self.losses))
        super().finish_step()

    # --- the verbs of an algorithm, and what they act on --------------------------

    def gradient(self) -> None:
        """Compute every row's gradient on its next batch."""
        self.called.add("gradient")
        size, part = self.batch_size, self.participants
        compute = self.pipeline.gradient if part is None else part.gradient
        self.losses = compute(self.progress, size)
        if self.setup.network:
            amount = size / self.setup.first_batch
            self.clock.work(self.step, amount, None if part is None else part.ids)

    def average_gradients(self) -> None:
        """Replace every row's gradient by the mean over all healthy nodes."""
        self._notice(finite_rows(self.grads))
        self.health.agree()
        self._zero_quarantined()
        mean, wire = self.exchange.mean(self.g, self._shares())
        self.g.copy_(mean.expand_as(self.g))
        self.stats.average(len(self.health.healthy), self.setup.gradient_bytes)
        self.clock.average(self.health.healthy, self.setup.gradient_bytes)
        self.stats.wire_bytes += wire

    def adapt(self) -> None:
        """Clip per row, then let the optimizer update the rows."""
        self.called.add("adapt")
        part = self.participants
        self.pipeline.clip(None if part is None else part.rows)
        if self.pipeline.restarts:
            self.optimizer.restart()
        # An update is proportional to its learning rate, whatever it depends on.
        before = self.x[self.scaled].clone() if self.scaled else None
        done = self.progress.fraction if self.optimizer.follows_progress else 0.0
        rate = self.setup.rates(self.progress, self.optimizer.blockwise)
        if part is None:
            self.optimizer.step(rate, done)
        elif part.rows:
            self.optimizer.step_rows(part.rows, rate, done)
        if before is not None:
            moved = self.x[self.scaled].sub_(before).mul_(self.factors)
            self.x[self.scaled] = moved.add_(before)
        self._zero_quarantined()

    def begin(self, action: RoundAction | None) -> None:
        """Let the rows of a gossip travel while gradients are computed, unless they
        may change.

        Statistics of BatchNorm, which are part of rows, change with every forward
        pass; and a quarantine may still change who communicates.
        """
        config = self.setup.config
        changing = config.gossip_buffers and bool(self.setup.layout.buffers)
        early = self.channels.plain and not changing and config.on_nonfinite == "stop"
        if action is None or action.mixing is None or not early:
            return
        self._notice(finite_rows(self.rows))
        self.clock.depart()
        self.channels.begin(action.mixing)

    # --- health -------------------------------------------------------------------

    def evaluating(self) -> AbstractContextManager[None]:
        """Let the rows be, for a while, what is to be evaluated, merged and kept."""
        return self.optimizer.evaluating()

    def zero_row(self, index: RowIndex) -> None:
        """Put all that is kept of a node to where nothing in it is not finite."""
        super().zero_row(index)
        self.grads[index] = 0.0
        self.optimizer.zero_state(index)

    @property
    def simulated_s(self) -> float:
        """Simulated seconds until the last node that takes part was done."""
        return self.clock.now_s(self.health.healthy)

    def _shares(self) -> Tensor:
        share = 1.0 / len(self.health.healthy)
        healthy = [share if self.health.is_healthy(node) else 0.0 for node in self.hosted]
        return torch.tensor(healthy, dtype=torch.float64)
