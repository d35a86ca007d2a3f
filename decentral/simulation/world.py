"""A block of rows in simulated time: every node at its own step, events in their
order.

Gradients in flight are computed together, and applied each at its own event; the
order of events is known without any arithmetic on rows.
"""

from __future__ import annotations

from heapq import heappop
from math import inf
from typing import Any

import numpy as np
from torch import Tensor

from decentral import rng
from decentral.algorithms.node import NodeEvent
from decentral.errors import RunError
from decentral.loop.block import Block
from decentral.loop.setup import Setup
from decentral.network.compute import seconds_of
from decentral.network.queue import Lines, Moment, OwnLine
from decentral.optim.block_optimizer import Rate
from decentral.plugins import describe, label_of, wrong
from decentral.schedules.action import Merge
from decentral.simulation.flight import Flight
from decentral.simulation.nodes import SimulatedNode
from decentral.simulation.rounds import Rounds, receivers_of, row_of
from decentral.simulation.traffic import Traffic
from decentral.topology.labels import NodeId
from decentral.traits import ComputeTraits, traits_of
from decentral.units import format_seconds

#: Numbers that a node draws ahead for one purpose.
_AHEAD = 64
_GRADIENT = NodeEvent("gradient")


class World(Traffic):
    """All nodes of a block at work, one event after the other.

    ``now_s`` is the simulated time, ``acting`` what has just happened to the node
    whose turn it is.
    """

    def __init__(
        self, block: Block, most: int | None = None, size: float | None = None
    ) -> None:
        """Put every node at its start.

        Args:
            block: The rows; nobody else trains them.
            most: Gradients that are computed at once; none: as many as are fast.
            size: Bytes of a message, as if rows were as long; none: those of a row.
        """
        setup = block.setup
        assert block.planner is not None
        assert setup.network is not None and setup.compute is not None  # noqa: PT018
        self.setup, self.planner = setup, block.planner
        lines = Lines(setup.network, _own_line(setup))
        super().__init__(block, setup.compute, lines, size)
        self.flight = Flight(block, self.operations, most)
        self.acting = "start"
        self.nodes = self._make_nodes()
        self.rounds = Rounds(self, self.planner)
        self.updates = self.begun = 0
        # Called for every event: millions of times.
        self._algorithm = setup.algorithm.function
        self._steps_rows = self._step
        #: Of each row at its last update.
        self.losses = [0.0] * len(block.hosted)
        #: Since the last step of the run began: how stale updates were, counted in
        #: changes by others and in updates of all; and how many there were before.
        self.staleness = self.delay = self.updates_before = 0
        #: Most updates of all between a snapshot and its update, in the whole run.
        self.longest_delay = 0
        #: When the last gradient began, and the bytes that were sent by then; what
        #: came after that, once all has arrived.
        self.last_begun = self.tail = 0.0, 0
        #: Whether all nodes make as many updates; how many all make together.
        self._alike = setup.runs_in == "neighbours"
        self.last = setup.config.steps * len(self.nodes)
        self._steps, self._factors = setup.config.steps, setup.config.node_lr
        #: When no gradient begins any more; schedules then read the time.
        self.until_s = setup.config.seconds or inf
        self._samples = setup.timeline.samples
        self._steps_known = setup.timeline.steps
        #: What to do for each `Moment`.
        self._happens = (
            self._end_gradient, self.end_transfer, self.free_line, self.begin_arrival,
            self.arrive,
        )  # fmt: skip
        self._intensity: dict[tuple[int, bool], float] = {}
        self._seconds: dict[int, list[float]] = {}
        self._paces: dict[int, tuple[float | Rate, float]] = {}

    def _make_nodes(self) -> list[SimulatedNode]:
        mixing = self.planner.mixer.mixing(0)
        receivers = receivers_of(mixing)
        return [
            SimulatedNode(self, index, row_of(mixing, index), receivers[index])
            for index in range(len(self.block.hosted))
        ]

    # --- one event after the other ------------------------------------------------

    def advance(self) -> None:
        """Let things happen until all nodes together have made one more update
        each, and to the end of that instant; after the last, until all has arrived.
        """
        block = self.block
        if not self.begun:
            for node in self.nodes:
                self.tell(node, NodeEvent("start"))
            self.strip.begin()
        self._wake()
        target = (block.step + 1) * len(self.nodes)
        self.staleness, self.delay, self.updates_before = 0, 0, self.updates
        heap, nodes, happens = self.queue.heap, self.nodes, self._happens
        while heap and (
            self.updates < target or heap[0][0] <= self.now_s or target >= self.last
        ):
            self.now_s, moment, node, _, what = heappop(heap)
            happens[moment](nodes[node], what)
        self.operations.finish()
        block.called.add("gradient")
        if self.is_done:
            begun_s, sent = self.last_begun
            self.tail = self.now_s - begun_s, block.stats.bytes - sent
        if not self.strip.is_over and (self.now_s >= self.strip.until_s or self.is_done):
            away_s = self.away_s if self.may_leave else None
            details = self.strip.close(self.now_s, away_s)
            block.announce("timeline", {"step": block.step + 1, **details})
        if self.updates < target and self.is_done:
            block.callbacks.stopped = {
                "step": self.updates // len(self.nodes),
                "reason": f"{format_seconds(self.until_s)} of simulated time are over",
            }
            block.announce("stopped", dict(block.callbacks.stopped))
        elif self.updates < target:
            raise RunError(
                f"{label_of(self.setup.algorithm)}: after {self.updates} of {self.last} updates "
                f"nothing is left to happen, {self.now_s:.3g} simulated seconds from the start; "
                "every event must lead to node.compute(), or to something that does."
            )
        if self.planner.is_communication_step(block.step + 1):
            block.intensity = self.intensity(block.step + 1)
        block.losses = block.losses.new_tensor(self.losses)
        block.clock.ready_s = np.full(len(self.nodes), self.now_s)
        block.stand_at(self.updates // len(self.nodes), block.round)

    @property
    def is_done(self) -> bool:
        """Whether all that the run has to do has happened."""
        done = self.updates >= self.last or self.now_s >= self.until_s
        return done and not self.queue.heap

    @property
    def begins_no_more(self) -> bool:
        """Whether no gradient begins any more."""
        return self.begun >= self.last or self.now_s >= self.until_s

    @property
    def reached(self) -> int:
        """The step of a run of so many that is as far as the time is."""
        share = min(1.0, self.now_s / self.until_s)
        return min(int(share * self._steps), self._steps - 1)

    def _wake(self) -> None:
        """Let nodes go on that had come to the end of a run which has become
        longer.
        """
        for node in self.nodes:
            if self.begins_no_more or not node.has_stopped:
                continue
            node.has_stopped = False
            if self._alike:
                self.tell(node, NodeEvent("start"))
            else:
                node.compute()

    def _end_gradient(self, node: SimulatedNode, _: None) -> None:
        node.is_in_flight = False
        if node.index in self.flight.begun:
            self.flight.compute()
        node.has_gradient = True
        self.tell(node, _GRADIENT)

    def tell(self, node: SimulatedNode, event: NodeEvent) -> None:
        """Call the algorithm for what has happened to a node."""
        self.acting = event.kind
        returned = self._algorithm(node, event)
        if returned is not None:
            raise wrong(
                self.setup.algorithm,
                describe(returned),
                "nothing: it acts through the node",
            )

    # --- training -----------------------------------------------------------------

    def begin_gradient(self, node: SimulatedNode) -> bool:
        """Let a node compute from now on, unless as many gradients as the run has
        were begun; return whether it began.
        """
        step, now_s = node.begun, self.now_s
        if self.begins_no_more or (self._alike and step == self._steps):
            node.has_stopped = True
            return False
        assert not node.is_in_flight, "one gradient of a node is in flight at most"
        self.begun += 1
        if self.begun == self.last or self.until_s < inf:
            self.last_begun = now_s, self.block.stats.bytes
        node.made_at_snapshot = self.updates
        position, size = self._batch(step)
        if self.until_s < inf:
            position, size = node.taken, self.setup.timeline.size(self.reached)
            node.taken += size
        self.flight.begin(node.index, position, size, node.updates, node)
        node.begun = step + 1
        node.is_in_flight = True
        seconds = self._seconds_of(node.index, step, size / self.setup.first_batch)
        node.busy_s += seconds
        node.due_s = due_s = now_s + seconds
        if not self.strip.is_over:
            self.strip.compute(node.id, now_s, due_s)
        self.queue.push(due_s, Moment.GRADIENT, node.id)
        return True

    def _batch(self, step: int) -> tuple[int, int]:
        """Return the first sample of a node's step, and how many it takes."""
        samples, steps = self._samples, self._steps_known
        if step < steps:
            position = samples[step]
            return position, samples[step + 1] - position
        # A fast node goes on with the last size.
        size = samples[steps] - samples[steps - 1]
        return samples[steps] + (step - steps) * size, size

    def _seconds_of(self, index: int, step: int, amount: float) -> float:
        """Return the seconds of a node's step; all nodes' are drawn in one call,
        and kept until the slowest has done the step, unless they depend on when it
        begins.

        Args:
            index: The node.
            step: Its step.
            amount: How many times the first step's work it is.
        """
        if not self.machines.by_time:
            drawn = self._seconds.get(step) or self._draw_seconds(step)
            return drawn[index] * amount
        assert self.setup.compute is not None
        node, now_s = np.array([index]), np.array([self.now_s])
        seed = self.setup.config.seed
        return float(seconds_of(self.setup.compute, node, step, seed, now_s, amount)[0])

    def _draw_seconds(self, step: int) -> list[float]:
        """Return the seconds of all nodes' step, and forget what all have done."""
        assert self.setup.compute is not None
        slowest = min(node.begun for node in self.nodes)
        for old in [one for one in self._seconds if one < slowest]:
            del self._seconds[old]
        ids, seed = np.arange(len(self.nodes)), self.setup.config.seed
        drawn = seconds_of(self.setup.compute, ids, step, seed).tolist()
        self._seconds[step] = drawn
        return drawn

    def update(self, node: SimulatedNode, scale: float) -> None:
        """Let the optimizer update ``scale`` times a node's row by its gradient."""
        index = node.index
        item = index, node.tensor, scale
        self.operations.add(self._steps_rows, self._pace(node), item, (), node.alone)
        self.losses[index] = self.flight.losses[index]
        delay = self.updates - node.made_at_snapshot
        self.delay += delay
        if delay > self.longest_delay:
            self.longest_delay = delay
        self.updates += 1
        self.staleness += node.changes - node.changes_at_snapshot

    def _step(
        self, items: list[tuple[int, Tensor, float]], rate: float | Rate, done: float
    ) -> None:
        """Let the optimizer update rows, all at one learning rate.

        Args:
            items: Indices of rows, what of them is sent, and their scales.
            rate: The learning rate.
            done: The share of the run that their nodes have done.
        """
        block, rows = self.block, [index for index, _, _ in items]
        for _, row, scale in items:
            if scale != 1.0:
                row.mul_(scale)
        factors = self._factors
        before = {
            one: (block.x[one].clone(), factors[block.hosted[one]])
            for one in rows if factors.get(block.hosted[one])
        } if factors else {}  # fmt: skip
        block.optimizer.step_rows(rows, rate, done)
        for one, (was, factor) in before.items():
            block.x[one] = was.add_((block.x[one] - was).mul_(factor))
        lands = self.flight.buffers or self.flight.counted
        for index, row, scale in items:
            if lands:
                self.flight.land(index)
            if scale != 1.0:
                row.div_(scale)

    def _pace(self, node: SimulatedNode) -> tuple[float | Rate, float]:
        """Return the learning rate of a node's next update, and the share of the
        run that is done if the optimizer wants to know, both by its own progress.
        """
        step = min(node.updates, self._steps - 1)
        if self.until_s < inf:
            step = self.reached
        known = self._paces.get(step)
        if known is None:
            here = self.planner.progress(step, 0)
            optimizer = self.block.optimizer
            rates = self.setup.rates(here, optimizer.blockwise)
            # Rows of one rate are updated in one call: they differ by what counts
            # only.
            done = here.fraction if optimizer.follows_progress else 0.0
            self._paces[step] = known = rates, done
        return known

    # --- communication ------------------------------------------------------------

    def intensity(self, step: int, *, always: bool = False) -> float:
        """Return with which chance a node communicates with a step of its own.

        Args:
            step: The step.
            always: Whether it is one at which the schedule is asked, whatever
                ``local_steps`` says.
        """
        known = self._intensity.get((step, always))
        if known is None:
            known = self._ask(step, always)
            if self.until_s == inf:  # else it depends on the time
                self._intensity[step, always] = known
        return known

    def _ask(self, step: int, always: bool) -> float:
        """Ask the schedule, see `intensity`."""
        planner = self.planner
        if not always and not planner.is_communication_step(step):
            return 0.0
        # Fast nodes go on at the end of the schedule, as seldom as before.
        at = min(step, planner.steps) if self.until_s == inf else self.reached + 1
        action: Any = planner.schedule.action(planner.progress(at, 0))
        assert not isinstance(action, Merge), "refused before the run"
        return action

    def draw_ahead(self, purpose: str, node: NodeId, first: int) -> list[float]:
        """Return a node's next numbers in [0, 1) for a purpose."""
        places = np.arange(first, first + _AHEAD)
        seed = self.setup.config.seed
        return rng.uniform(seed, f"simulation/{purpose}", node, places).tolist()


def _own_line(setup: Setup) -> OwnLine | None:
    """Return what nodes' lines are like at a moment, where ``compute`` says so."""
    compute = setup.compute
    assert compute is not None
    traits, seed = traits_of(compute, ComputeTraits), setup.config.seed
    line, has_lines = traits.line, traits.has_lines
    if line is None or has_lines is None or not has_lines(compute.settings):
        return None
    return lambda node, at_s: line(node, at_s, seed, compute.settings)
