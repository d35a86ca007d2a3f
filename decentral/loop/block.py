"""A worker's block of rows at work: what algorithms act on.

Where a run draws the nodes that take part in a round, gradients and updates are
theirs, and the rows of the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral.algorithms.base import time_of
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.exchange.base import Exchange
from decentral.loop.callbacks import Callbacks
from decentral.loop.channels import Channels
from decentral.loop.health import Announce, finite_rows
from decentral.loop.hosted import HostedRows
from decentral.loop.pipeline import Pipeline
from decentral.loop.setup import Setup, Simulated
from decentral.metrics.base import declared_records
from decentral.network.planning import Membership, RoundAction, RoundPlanner
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.records import records_of
from decentral.registry import ConfiguredPlugin
from decentral.sampling import Sampler
from decentral.schedules.action import Merge, Participation
from decentral.schedules.progress import Progress
from decentral.topology.labels import NodeId, RowIndex
from decentral.traits import AlgorithmTraits, traits_of

# --- nodes that take part ---------------------------------------------------------


class Participants:
    """The hosted rows that are drawn, anew for every communication step.

    Their gradients are taken side by side, on copies; samples are those that a node
    would see at the same step if all took part.
    """

    def __init__(self, planner: RoundPlanner, whole: Pipeline) -> None:
        """Serve the block of the pipeline ``whole``."""
        self.planner, self.whole = planner, whole
        self.losses = whole.rows.new_zeros(len(whole.hosted))
        #: Hosted rows that are drawn, and the ids of all nodes that are.
        self.rows: list[RowIndex] = []
        self.ids = np.zeros(0, np.int64)
        self._drawn_for = -1  # index of a communication step

    def draw(self, progress: Progress) -> None:
        """Let those take part who are drawn for the step that follows ``progress``."""
        index = progress.step // progress.local_steps
        if index == self._drawn_for:
            return
        drawn = self.planner.drawn(progress.step + 1)
        assert drawn is not None
        self._drawn_for, self.ids = index, drawn
        places = {int(node): row for row, node in enumerate(self.whole.hosted)}
        self.rows = [RowIndex(places[i]) for i in drawn.tolist() if i in places]
        if self.rows:
            self._take_places(progress)

    def _take_places(self, progress: Progress) -> None:
        """Make room for the rows that are drawn, and prepare their samples."""
        whole, setup = self.whole, self.whole.setup
        # Even: a lone or odd row would get other bits than it has beside another one,
        # and who is beside it depends on the workers.
        padded = [*self.rows, self.rows[-1]] if len(self.rows) % 2 else self.rows
        self._index = torch.tensor(padded, device=whole.rows.device)
        samples, ends = setup.timeline.samples, progress.step + progress.local_steps
        ahead = samples[min(ends, len(samples) - 1)] - progress.samples
        hosted = [whole.hosted[row] for row in padded]
        sampler = Sampler(setup.train, setup.plan, hosted, setup.config.seed, ahead)
        rows = whole.rows.new_zeros(len(padded), whole.rows.shape[1])
        integers = {k: value[self._index] for k, value in whole.integers.items()}
        chosen = whole.compute, whole.reason
        self._pipeline = Pipeline(
            setup, rows, integers, torch.zeros_like(rows), sampler, hosted, chosen
        )

    def gradient(self, progress: Progress, size: int) -> Tensor:
        """Write the gradient of every row that is drawn; return the last losses [n].

        Args:
            progress: How far the run is.
            size: Samples of the batch of a node.
        """
        self.draw(progress)
        if not self.rows:
            return self.losses
        whole, part, count = self.whole, self._pipeline, len(self.rows)
        torch.index_select(whole.rows, 0, self._index, out=part.rows)
        for name, value in part.integers.items():
            value.copy_(whole.integers[name][self._index])
        self.losses[self.rows] = part.gradient(progress, size)[:count]
        whole.grads[self.rows] = part.grads[:count]
        # What the forward pass has made of buffers is theirs, too.
        buffers = slice(part.setup.layout.trainable, None)
        whole.rows[self.rows, buffers] = part.rows[:count, buffers]
        for name, value in part.integers.items():
            whole.integers[name][self.rows] = value[:count]
        return self.losses

    def among(self, healthy: list[NodeId]) -> list[NodeId]:
        """Return those of ``healthy`` nodes that are drawn."""
        drawn = {*self.ids.tolist()}
        return [node for node in healthy if node in drawn]


# --- checked before ---------------------------------------------------------------


def participation_of(config: Config) -> Participation | None:
    """Return what draws the nodes of a round, None where all take part."""
    amount, nodes = config.participation, config.nodes
    if amount > 1 and (amount > nodes or amount != int(amount)):
        raise ConfigError(
            f"participation = {amount:g}: it must be a share of the nodes, up to 1, or a whole "
            f"number of them, from 2 to {nodes}."
        )
    found = Participation(float(amount), config.seed)
    return None if found.count(nodes) == nodes else found


def drawn_nodes(config: Config) -> int:
    """Return how many nodes take part in a round."""
    found = participation_of(config)
    return config.nodes if found is None else found.count(config.nodes)


def with_participation(
    config: Config, parts: Mapping[str, ConfiguredPlugin], planner: RoundPlanner | None
) -> RoundPlanner | None:
    """Return a planner that draws who takes part as a run asks for it; raises
    ConfigError where nodes may not be left out of a round.

    Args:
        config: The configuration.
        parts: Plug-ins of the run, by kind.
        planner: What is sent when; none: nothing is planned.
    """
    participation = participation_of(config)
    if participation is None:
        return planner
    algorithm, sam = parts["algorithm"], config.sam
    partial = traits_of(algorithm, AlgorithmTraits).partial
    in_rounds = planner is not None and time_of(algorithm) == "rounds"
    if planner is None or partial == "nothing" or not in_rounds:
        raise ConfigError(
            f"participation: algorithm {algorithm.name!r} is not defined where nodes rest; "
            "use local_sgd, diloco, slowmo or dsgd."
        )
    schedule = planner.schedule
    if schedule.closed_loop or schedule.own_feedback:
        raise ConfigError(
            f"participation: communication {schedule.rule.name!r} asks all nodes how they do; "
            "use communication merges, constant or late."
        )
    if partial == "merges" and not _only_merges(planner):
        raise ConfigError(
            f"participation: algorithm {algorithm.name!r} needs global merges where nodes rest; "
            "use communication merges."
        )
    restarts = sam is not None and sam.momentum == "restart"
    for holds, remedy in (
        (config.mix_state, "mix_state mixes what nodes have after as many steps; leave it out"),
        (restarts, "SAM restarts the momentum of all nodes at once; use sam.momentum=keep"),
    ):  # fmt: skip
        if holds:
            raise ConfigError(f"participation: {remedy}.")
    return replace(planner, participation=participation)


def _only_merges(planner: RoundPlanner) -> bool:
    """Whether nothing but global merges is ever sent."""
    actions = (action for _, action in planner.decisions())
    return all(isinstance(action, Merge) or action == 0.0 for action in actions)


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
