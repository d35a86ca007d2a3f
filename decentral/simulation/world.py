"""A block of rows in simulated time: every node at its own step, events in their order.

Gradients in flight are computed together, and applied each at its own event; the order
of events is known without any arithmetic on rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decentral import rng
from decentral.algorithms.node import NodeEvent, Version
from decentral.errors import RunError
from decentral.loop.block import Block
from decentral.mixing.base import Mixing
from decentral.network.compute import seconds_of
from decentral.network.queue import Event, Lines, Moment
from decentral.optim.block_optimizer import Rate
from decentral.plugins import describe, label_of, wrong
from decentral.schedules.action import Merge
from decentral.simulation.flight import Flight
from decentral.simulation.nodes import SimulatedNode
from decentral.simulation.rounds import Rounds, receivers_of
from decentral.simulation.traffic import Traffic
from decentral.topology.labels import NodeId
from decentral.traits import ComputeTraits, traits_of

#: Numbers that a node draws ahead for one purpose.
_AHEAD = 64


class World(Traffic):
    """All nodes of a block at work, one event after the other.

    ``now_s`` is the simulated time, ``acting`` what has just happened to the node whose
    turn it is.
    """

    def __init__(self, block: Block, most: int | None = None) -> None:
        """Put every node at its start.

        Args:
            block: The rows; nobody else trains them.
            most: Gradients that are computed at once; none: as many as are fast.
        """
        setup = block.setup
        assert block.planner is not None
        assert setup.network is not None
        assert setup.compute is not None
        self.setup, self.planner = setup, block.planner
        self.flight = Flight(block, most)
        super().__init__(block, Lines(setup.network))
        self.acting = "start"
        mixing = self.planner.mixer.mixing(0)
        receivers = receivers_of(mixing)
        self.nodes = [
            SimulatedNode(self, index, _row(mixing, index), receivers[index])
            for index in range(len(block.hosted))
        ]
        self.rounds = Rounds(self, self.planner)
        self.updates = self.begun = 0
        #: Of each row at its last update.
        self.losses = [0.0] * len(block.hosted)
        #: Since the last step of the run began: updates, and how stale they were.
        self.staleness = self.updates_before = 0
        #: Whether all nodes make as many updates; how many all make together.
        self._alike = setup.runs_in == "neighbours"
        self.last = setup.config.steps * len(self.nodes)
        self._machines = traits_of(setup.compute, ComputeTraits)
        loses = self._machines.loses
        self._loses = loses is not None and loses(setup.compute.settings)
        self._intensity: dict[int, float] = {}
        self._seconds: dict[int, list[float]] = {}
        self._paces: dict[int, tuple[float | Rate, float]] = {}

    # --- one event after the other ------------------------------------------------

    def advance(self) -> None:
        """Let things happen until all nodes together have made one more update each,
        and to the end of that instant; after the last, until all has arrived.
        """
        block = self.block
        if not self.begun:
            for node in self.nodes:
                self.tell(node, NodeEvent("start"))
        self._wake()
        target = (block.step + 1) * len(self.nodes)
        self.staleness, self.updates_before = 0, self.updates
        while self.queue and (
            self.updates < target
            or self.queue.next_s <= self.now_s
            or target >= self.last
        ):
            self._happen(self.queue.pop())
        if self.updates < target:
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

    def _wake(self) -> None:
        """Let nodes go on that had come to the end of a run which has become longer."""
        for node in self.nodes:
            if not node.has_stopped or self.begun >= self.last:
                continue
            node.has_stopped = False
            if self._alike:
                self.tell(node, NodeEvent("start"))
            else:
                node.compute()

    def _happen(self, event: Event) -> None:
        self.now_s = event.time_s
        node, what = self.nodes[event.node], event.what
        match event.moment:
            case Moment.GRADIENT:
                node.is_in_flight = False
                if self.flight.is_pending(node.index):
                    self.flight.compute()
                node.has_gradient = True
                self.tell(node, NodeEvent("gradient"))
            case Moment.TRANSFER:
                away_s = max(self._away_s(n) for n in (what.node, what.other))
                if away_s:
                    self.queue.push(self.now_s + away_s, Moment.TRANSFER, node.id, what)
                else:
                    self._end_meeting(what)
            case Moment.LINE:
                receivers, version = self.waiting[event.node].pop(0)
                if not self.waiting[event.node]:
                    del self.waiting[event.node]
                self._leave(event.node, receivers, version)
                if event.node in self.waiting:
                    free_s = self.lines.free_s[event.node]
                    self.queue.push(free_s, Moment.LINE, event.node)
            case Moment.BEGINNING:
                leaving, version = what
                size = self.bytes_of(version)
                arrives_s = self.lines.take(event.node, leaving, size)
                self.queue.push(arrives_s, Moment.MESSAGE, event.node, version)
            case Moment.MESSAGE:
                if away_s := self._away_s(node.id):
                    if self._loses:
                        self.lost += 1
                    else:
                        back_s = self.now_s + away_s
                        self.queue.push(back_s, Moment.MESSAGE, node.id, what)
                elif isinstance(what, Version):
                    self.tell(node, NodeEvent("message", what.owner, what))
                else:
                    self.tell(node, NodeEvent("round"))

    def _away_s(self, node: NodeId) -> float:
        """Return the seconds until a node is online; 0: it is."""
        away_s, compute = self._machines.away_s, self.setup.compute
        if away_s is None or compute is None:
            return 0.0
        return away_s(node, self.now_s, self.setup.config.seed, compute.settings)

    def tell(self, node: SimulatedNode, event: NodeEvent) -> None:
        """Call the algorithm for what has happened to a node."""
        self.acting = event.kind
        returned = self.setup.algorithm(node, event)
        if returned is not None:
            raise wrong(
                self.setup.algorithm,
                describe(returned),
                "nothing: it acts through the node",
            )

    # --- training -----------------------------------------------------------------

    def begin_gradient(self, node: SimulatedNode) -> bool:
        """Let a node compute from now on, unless as many gradients as the run has were
        begun; return whether it began.
        """
        if self.begun >= self.last or (
            self._alike and node.begun == self.setup.config.steps
        ):
            node.has_stopped = True
            return False
        assert not node.is_in_flight, "one gradient of a node is in flight at most"
        self.begun += 1
        timeline, step = self.setup.timeline, node.begun
        size = timeline.size(min(step, timeline.steps - 1))
        beyond = max(0, step - timeline.steps)
        position = timeline.samples[min(step, timeline.steps)] + beyond * size
        self.flight.begin(node.index, position, size, node.updates)
        node.begun += 1
        node.is_in_flight = True
        seconds = self._seconds_of(node.index, step, size / self.setup.first_batch)
        node.busy_s += seconds
        node.due_s = self.now_s + seconds
        self.queue.push(node.due_s, Moment.GRADIENT, node.id)
        self.block.called.add("gradient")
        return True

    def _seconds_of(self, index: int, step: int, amount: float) -> float:
        """Return the seconds of a node's step; all nodes' are drawn in one call, and kept
        until the slowest has done the step, unless they depend on when it begins.

        Args:
            index: The node.
            step: Its step.
            amount: How many times the first step's work it is.
        """
        assert self.setup.compute is not None
        if self._machines.by_time:
            node, now_s = np.array([index]), np.array([self.now_s])
            seed = self.setup.config.seed
            found = seconds_of(self.setup.compute, node, step, seed, now_s, amount)
            return float(found[0])
        if step not in self._seconds:
            slowest = min(node.begun for node in self.nodes)
            for old in [one for one in self._seconds if one < slowest]:
                del self._seconds[old]
            ids = np.arange(len(self.nodes))
            drawn = seconds_of(self.setup.compute, ids, step, self.setup.config.seed)
            self._seconds[step] = drawn.tolist()
        return self._seconds[step][index] * amount

    def update(self, node: SimulatedNode) -> None:
        """Let the optimizer update a node's row by its gradient."""
        block, index = self.block, node.index
        factor = self.setup.config.node_lr.get(node.id)
        before = block.x[index].clone() if factor else None
        block.optimizer.step_row(index, *self._pace(node))
        if before is not None and factor:
            block.x[index] = before.add_((block.x[index] - before).mul_(factor))
        self.flight.land(index)
        self.losses[index] = self.flight.losses[index]
        self.updates += 1
        self.staleness += node.changes - node.changes_at_snapshot

    def _pace(self, node: SimulatedNode) -> tuple[float | Rate, float]:
        """Return the learning rate of a node's next update, and the share of the run
        that is done, both by its own progress.
        """
        step = min(node.updates, self.setup.config.steps - 1)
        if step not in self._paces:
            here = self.planner.progress(step, 0)
            rates = self.setup.rates(here, self.block.optimizer.blockwise)
            self._paces[step] = rates, here.fraction
        return self._paces[step]

    # --- communication ------------------------------------------------------------

    def intensity(self, step: int, *, always: bool = False) -> float:
        """Return with which chance a node communicates with a step of its own.

        Args:
            step: The step.
            always: Whether it is one at which the schedule is asked, whatever
                ``local_steps`` says.
        """
        planner = self.planner
        if not always and not planner.is_communication_step(step):
            return 0.0
        if step not in self._intensity:
            # Fast nodes go on at the end of the schedule, as seldom as before.
            here = planner.progress(min(step, planner.steps), 0)
            action: Any = planner.schedule.action(here)
            assert not isinstance(action, Merge), "refused before the run"
            self._intensity[step] = action
        return self._intensity[step]

    def draw_ahead(self, purpose: str, node: NodeId, first: int) -> list[float]:
        """Return a node's next numbers in [0, 1) for a purpose."""
        places = np.arange(first, first + _AHEAD)
        seed = self.setup.config.seed
        return rng.uniform(seed, f"simulation/{purpose}", node, places).tolist()

    # --- what it has come to ------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Return what a log line shows of the simulation."""
        now_s = self.now_s
        training = self.nodes[1:] if self.setup.traits.server else self.nodes
        counts = [node.updates for node in training]
        # Of a server the model of the run is its own, whatever clients hold.
        held = self.nodes[:1] if self.setup.traits.server else self.nodes
        mean = sum(node.mean_value for node in held) / len(held)
        busy = sum(node.busy_s - max(0.0, node.due_s - now_s) for node in training)
        applied = max(1, self.updates - self.updates_before)
        return {
            "simulation/gain": mean * len(training) / max(1, self.updates),
            "simulation/staleness": self.staleness / applied,
            "simulation/idle": 1.0 - busy / (len(training) * now_s) if now_s else 0.0,
            "simulation/width": self.flight.computed / max(1, self.flight.calls),
            "simulation/updates_min": min(counts),
            "simulation/updates_max": max(counts),
            "simulation/replaced": self.dropped,
            **({"simulation/lost": self.lost} if self._loses else {}),
        }


def _row(mixing: Mixing, position: int) -> dict[NodeId, float]:
    """Return a row of mixing weights by node, ascending."""
    senders, weights = mixing.row(position)
    pairs = zip(senders.tolist(), weights.tolist(), strict=True)
    return {NodeId(node): weight for node, weight in pairs}
