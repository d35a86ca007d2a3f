"""Rounds without a barrier: a node waits for the models of its neighbours, and for
nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from decentral.algorithms.node import Version
from decentral.exchange.local import ordered_sums
from decentral.mixing.base import Mixing
from decentral.network.planning import RoundPlanner
from decentral.network.queue import Lines, Moment, Queue
from decentral.simulation.nodes import SimulatedNode
from decentral.topology.labels import NodeId


class World(Protocol):
    """What rounds are sent in; see `decentral.simulation.world`."""

    now_s: float
    size: float
    lines: Lines
    queue: Queue

    def count_messages(self, count: int) -> None:
        """Book messages that leave."""
        ...


@dataclass
class OpenRound:
    """One round that some have begun and not all have mixed."""

    mixing: Mixing
    receivers: list[list[NodeId]]
    begun: dict[NodeId, tuple[float, int]] = field(
        default_factory=dict[NodeId, tuple[float, int]]
    )
    versions: dict[NodeId, Version] = field(default_factory=dict[NodeId, Version])
    waiting: set[NodeId] = field(default_factory=set[NodeId])
    mixed: int = 0

    def senders(self, node: NodeId) -> list[NodeId]:
        """Return from whom a node receives, ascending, itself left out."""
        span = slice(self.mixing.indptr[node], self.mixing.indptr[node + 1])
        return [NodeId(int(j)) for j in self.mixing.senders[span] if j != node]


class Rounds:
    """The rounds of a simulation: what is sent in each is what the planner says."""

    def __init__(self, world: World, planner: RoundPlanner) -> None:
        """Serve the nodes of a simulation."""
        self.world, self.planner = world, planner
        self.open: dict[int, OpenRound] = {}
        #: Steps in which something is sent, in order, and how far that is known.
        self._number = 0
        self._known_to = 0
        self._planned: dict[int, Mixing | None] = {}

    def _mixing(self, step: int) -> Mixing | None:
        """Return what is sent at a step; rounds are counted in the order of steps."""
        while self._known_to < step:
            self._known_to += 1
            here, planner = self._known_to, self.planner
            action = None
            if planner.is_communication_step(here):
                action = planner.plan(planner.progress(here, self._number))
            self._planned[here] = action.mixing if action else None
            self._number += action is not None
        return self._planned[step]

    def send(self, node: SimulatedNode) -> bool:
        """Send a node's model as the round of its step says; return whether there is
        one.
        """
        mixing = self._mixing(node.begun)
        if mixing is None:
            return False
        if node.begun not in self.open:
            self.open[node.begun] = OpenRound(mixing, receivers_of(mixing))
        round = self.open[node.begun]
        receivers = round.receivers[node.id]
        now_s = self.world.now_s
        round.begun[node.id] = now_s, len(receivers)
        round.versions[node.id] = node.keep()
        self.world.count_messages(len(receivers))
        for receiver in (node.id, *receivers):
            self._call(round, node.begun, receiver)
        return True

    def await_(self, node: SimulatedNode) -> None:
        """Call a node with ``round`` as soon as all models of its round are there."""
        round = self.open[node.begun]
        round.waiting.add(node.id)
        self._call(round, node.begun, node.id)

    def _call(self, round: OpenRound, step: int, node: NodeId) -> None:
        """Let a node that waits go on, once all whom it waits for have sent."""
        senders = round.senders(node)
        there = all(j in round.begun for j in senders)
        if node not in round.waiting or not there:
            return
        round.waiting.remove(node)
        world = self.world
        size, lines = world.size, world.lines
        begin_s, together = round.begun[node]
        done_s = begin_s
        if together:
            receivers = round.receivers[node]
            # Its own messages must have left, too.
            done_s = max(
                one.left_s for one in lines.leave(begin_s, node, receivers, size)
            )
        begun = [(j, *round.begun[j]) for j in senders]
        done_s = max(done_s, lines.round_s(node, begun, size))
        world.queue.push(max(world.now_s, done_s), Moment.MESSAGE, node, ("round", step))

    def mix(self, node: SimulatedNode) -> None:
        """x_i <- sum_j W_ij x_j with the models of a node's round."""
        step = node.begun
        round = self.open[step]
        span = slice(round.mixing.indptr[node.id], round.mixing.indptr[node.id + 1])
        senders = round.mixing.senders[span].tolist()
        if round.mixing.changes()[node.id]:
            terms = [round.versions[NodeId(j)] for j in senders]
            weights = torch.from_numpy(round.mixing.weights[span]).to(node.row)
            exact = round.mixing.weights[span].tolist()
            node.value = sum(w * one.value for w, one in zip(exact, terms, strict=True))
            places = torch.arange(len(terms), device=node.row.device)
            rows = torch.stack([one.row for one in terms])
            node.row.copy_(ordered_sums(rows, places, weights, places[:1])[0])
        round.mixed += 1
        if round.mixed == node.nodes:
            del self.open[step]

    # --- checkpoints --------------------------------------------------------------

    def state(self, keep: Any) -> list[dict[str, Any]]:
        """Return the open rounds as plain data; ``keep`` notes a model and returns its
        number.
        """
        return [
            {
                "step": step,
                "begun": {str(n): list(b) for n, b in one.begun.items()},
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
            self.open[one["step"]] = OpenRound(
                mixing,
                receivers_of(mixing),
                {NodeId(int(n)): (b[0], int(b[1])) for n, b in one["begun"].items()},
                {NodeId(int(n)): versions[v] for n, v in one["versions"].items()},
                {NodeId(n) for n in one["waiting"]},
                one["mixed"],
            )


def receivers_of(mixing: Mixing) -> list[list[NodeId]]:
    """Return who receives from every node, ascending, itself left out."""
    found: list[list[NodeId]] = [[] for _ in range(mixing.nodes)]
    rows = np.repeat(np.arange(mixing.nodes), np.diff(mixing.indptr))
    for receiver, sender in zip(rows.tolist(), mixing.senders.tolist(), strict=True):
        if receiver != sender:
            found[sender].append(NodeId(receiver))
    return found
