"""Rounds without a barrier: a node waits for the models of its neighbours, and for
nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from decentral.algorithms.node import Version
from decentral.mixing.base import Mixing
from decentral.network.planning import RoundPlanner
from decentral.network.queue import Lines, Moment, Queue
from decentral.simulation import operations as do
from decentral.simulation.nodes import SimulatedNode
from decentral.simulation.operations import Operations
from decentral.simulation.strip import Strip
from decentral.topology.labels import NodeId


class World(Protocol):
    """What rounds are sent in; see `decentral.simulation.world`."""

    now_s: float
    size: float
    carried: float
    lines: Lines
    queue: Queue
    operations: Operations
    strip: Strip

    def count_messages(self, count: int) -> None:
        """Book messages that leave."""
        ...


@dataclass
class OpenRound:
    """One round that some have begun and not all have mixed."""

    mixing: Mixing
    receivers: list[list[NodeId]]
    changes: NDArray[np.bool_]  # [nodes], whose rows it changes
    #: When each node's messages began to leave, and how many left together.
    begun: dict[NodeId, tuple[float, int]] = field(
        default_factory=dict[NodeId, tuple[float, int]]
    )
    #: When the last of them had left.
    left_s: dict[NodeId, float] = field(default_factory=dict[NodeId, float])
    #: When its messages are there, if receivers' lines take them at once.
    arrives_s: dict[NodeId, list[float]] = field(
        default_factory=dict[NodeId, list[float]]
    )
    versions: dict[NodeId, Version] = field(default_factory=dict[NodeId, Version])
    waiting: set[NodeId] = field(default_factory=set[NodeId])
    mixed: int = 0

    @staticmethod
    def of(mixing: Mixing) -> OpenRound:
        """Return a round that nobody has begun."""
        return OpenRound(mixing, receivers_of(mixing), mixing.changes())

    def senders(self, node: NodeId) -> list[NodeId]:
        """Return from whom a node receives, ascending, itself left out."""
        return [NodeId(j) for j in self.mixing.row(node)[0].tolist() if j != node]


class Rounds:
    """The rounds of a simulation: what is sent in each is what the planner says."""

    def __init__(self, world: World, planner: RoundPlanner) -> None:
        """Serve the nodes of a simulation."""
        self.world, self.planner = world, planner
        self.open: dict[int, OpenRound] = {}
        #: Steps in which something is sent, in order, and how far that is known.
        self._number = 0
        self._known_to = 0
        self._planned: dict[int, Mixing] = {}

    def _mixing(self, step: int) -> Mixing | None:
        """Return what is sent at a step; rounds are counted in the order of steps."""
        while self._known_to < step:
            self._known_to += 1
            here, planner = self._known_to, self.planner
            if not planner.is_communication_step(here):
                continue
            action = planner.plan(planner.progress(here, self._number))
            if action is not None:
                assert action.mixing is not None, "merges were refused before the run"
                self._planned[here] = action.mixing
                self._number += 1
        return self._planned.get(step)

    def send(self, node: SimulatedNode) -> bool:
        """Send a node's model as the round of its step says; return whether there
        is one.
        """
        step, world = node.begun, self.world
        mixing = self._mixing(step)
        if mixing is None:
            return False
        if step not in self.open:
            self.open[step] = OpenRound.of(mixing)
        round = self.open[step]
        receivers, now_s = round.receivers[node.id], world.now_s
        round.begun[node.id] = now_s, len(receivers)
        leaving = world.lines.leave(now_s, node.id, receivers, world.size)
        for receiver, one in zip(receivers, leaving, strict=True):
            world.strip.message(node.id, receiver, now_s, one.arrives_s)
        round.left_s[node.id] = max((one.left_s for one in leaving), default=now_s)
        round.arrives_s[node.id] = arrives_s = [one.arrives_s for one in leaving]
        world.carried += sum(at_s - now_s for at_s in arrives_s) * world.size
        round.versions[node.id] = node.keep()
        world.count_messages(len(receivers))
        for receiver in (node.id, *receivers):
            self._call(round, step, receiver)
        return True

    def await_(self, node: SimulatedNode) -> None:
        """Call a node with ``round`` as soon as all models of its round are there."""
        round = self.open[node.begun]
        round.waiting.add(node.id)
        self._call(round, node.begun, node.id)

    def _call(self, round: OpenRound, step: int, node: NodeId) -> None:
        """Let a node that waits go on, once all whom it waits for have sent."""
        if node not in round.waiting:
            return
        senders = round.senders(node)
        if not all(j in round.begun for j in senders):
            return
        round.waiting.remove(node)
        world = self.world
        begun = [(j, *round.begun[j]) for j in senders]
        # Its own messages must have left, too.
        done_s = max(round.left_s[node], world.lines.round_s(node, begun, world.size))
        world.queue.push(max(world.now_s, done_s), Moment.MESSAGE, node, ("round", step))

    def mix(self, node: SimulatedNode) -> None:
        """x_i <- sum_j W_ij x_j with the models of a node's round."""
        step = node.begun
        round = self.open[step]
        if round.changes[node.id]:
            senders, exact = round.mixing.row(node.id)
            terms = [round.versions[NodeId(j)] for j in senders.tolist()]
            pairs = zip(exact.tolist(), terms, strict=True)
            node.value = sum(weight * one.value for weight, one in pairs)
            item = node.tensor, terms, torch.from_numpy(exact).to(node.tensor)
            self.world.operations.add(do.mix_round, (), item, terms, (node,))
        round.mixed += 1
        if round.mixed == node.nodes:
            del self.open[step], self._planned[step]

    @property
    def open_bytes_s(self) -> float:
        """Bytes times seconds that messages of open rounds have yet to travel."""
        now_s, size = self.world.now_s, self.world.size
        all_s = (at for one in self.open.values() for at in one.arrives_s.values())
        return size * sum(max(0.0, at_s - now_s) for some in all_s for at_s in some)

    # --- checkpoints --------------------------------------------------------------

    def state(self, keep: Any) -> list[dict[str, Any]]:
        """Return the open rounds as plain data; ``keep`` notes a model and returns
        its number.
        """
        return [
            {
                "step": step,
                "begun": {str(n): list(b) for n, b in one.begun.items()},
                "left_s": {str(n): s for n, s in one.left_s.items()},
                "arrives_s": {str(n): at for n, at in one.arrives_s.items()},
                "versions": {str(n): keep(v) for n, v in one.versions.items()},
                "waiting": sorted(one.waiting),
                "mixed": one.mixed,
            }
            for step, one in self.open.items()
        ]

    def restore(
        self, state: list[dict[str, Any]], versions: Mapping[int, Version]
    ) -> None:
        """Hold the rounds that others held open."""
        for one in state:
            mixing = self._mixing(one["step"])
            assert mixing is not None, "a round that is open sends something"
            round = self.open[one["step"]] = OpenRound.of(mixing)
            round.begun = {
                NodeId(int(n)): (b[0], int(b[1])) for n, b in one["begun"].items()
            }
            round.left_s = {NodeId(int(n)): s for n, s in one["left_s"].items()}
            known = one.get("arrives_s", {})  # older checkpoints do not say
            round.arrives_s = {NodeId(int(n)): list(at) for n, at in known.items()}
            round.versions = {
                NodeId(int(n)): versions[v] for n, v in one["versions"].items()
            }
            round.waiting = {NodeId(n) for n in one["waiting"]}
            round.mixed = one["mixed"]
        # Of rounds that are over nothing is asked again.
        self._planned = {step: one.mixing for step, one in self.open.items()}


def receivers_of(mixing: Mixing) -> list[list[NodeId]]:
    """Return who receives from every node, ascending, itself left out."""
    found: list[list[NodeId]] = [[] for _ in range(mixing.nodes)]
    pairs = zip(mixing.receivers.tolist(), mixing.senders.tolist(), strict=True)
    for receiver, sender in pairs:
        if receiver != sender:
            found[sender].append(NodeId(receiver))
    return found


def row_of(mixing: Mixing, position: int) -> dict[NodeId, float]:
    """Return a row of mixing weights by node, ascending."""
    senders, weights = mixing.row(position)
    pairs = zip(senders.tolist(), weights.tolist(), strict=True)
    return {NodeId(node): weight for node, weight in pairs}
