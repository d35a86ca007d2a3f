"""A node in simulated time: what an asynchronous algorithm asks of it, done to a
row of the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from decentral.algorithms.node import NodeEvent, Part, Version
from decentral.loop.block import Block
from decentral.simulation import operations as do
from decentral.simulation.operations import Operations
from decentral.topology.labels import NodeId


class Rounds(Protocol):
    """Rounds without a barrier, as a node sees them."""

    def send(self, node: SimulatedNode) -> bool:
        """Send a node's model as the round of its step says."""
        ...

    def await_(self, node: SimulatedNode) -> None:
        """Call a node as soon as all models of its round are there."""
        ...

    def mix(self, node: SimulatedNode) -> None:
        """Mix a node's row with the models of its round."""
        ...


class World(Protocol):
    """What a node lives in, as far as nodes see it; see
    `decentral.simulation.world`.
    """

    block: Block
    nodes: list[SimulatedNode]
    acting: str
    operations: Operations
    waiting: dict[NodeId, list[tuple[list[NodeId], Version]]]

    @property
    def rounds(self) -> Rounds:
        """The rounds of the run."""
        ...

    def begin_gradient(self, node: SimulatedNode) -> bool:
        """Let a node compute from now on; return whether it began."""
        ...

    def update(self, node: SimulatedNode, scale: float) -> None:
        """Let the optimizer update ``scale`` times a node's row."""
        ...

    def draw_ahead(self, purpose: str, node: NodeId, first: int) -> list[float]:
        """Return a node's next numbers in [0, 1)."""
        ...

    def intensity(self, step: int, *, always: bool = False) -> float:
        """Return with which chance a node communicates with a step of its own."""
        ...

    def version(self, node: SimulatedNode, numbers: dict[str, float]) -> Version:
        """Return a version of a node's model, which is not copied yet."""
        ...

    def send(
        self,
        node: SimulatedNode,
        receivers: Sequence[NodeId],
        version: Version,
        waits: str,
        adds: str,
    ) -> None:
        """Send a model, at once or when the sender's line is free."""
        ...

    def send_parts(
        self, node: SimulatedNode, letters: Sequence[tuple[NodeId, Part]]
    ) -> None:
        """Send parts of a model in place of those that wait."""
        ...

    def meet(self, node: SimulatedNode, other: NodeId, begun: bool, alone: bool) -> None:
        """Let two nodes exchange models."""
        ...


class SimulatedNode:
    """One node of a `Simulation`; see `decentral.algorithms.node.Node`.

    ``value`` is what its row would be if it began at 0 and every update added 1: by
    the same averages, so that the mean over nodes says what asynchrony does to the
    length of a step.
    """

    def __init__(
        self,
        world: World,
        index: int,
        weights: Mapping[NodeId, float],
        receivers: Sequence[NodeId],
    ) -> None:
        """Stand at the first row.

        Args:
            world: What it lives in.
            index: Its row of the block.
            weights: Its row of the mixing weights.
            receivers: Who receives from it.
        """
        self.world, self.index = world, index
        self.id = world.block.hosted[index]
        self.tensor: Tensor = world.block.sent[index]
        #: How far what waits has come with it, see
        #: `decentral.simulation.operations`.
        self.written = self.touched = 0
        setup = world.block.setup
        sent = setup.layout.entries_sent(setup.config.gossip_buffers)
        #: The row without the padding at its end: what is cut into parts.
        self.whole = self.tensor[: sent[-1].stop]
        self.weights, self.out_neighbours = weights, receivers
        self.neighbours = [node for node in weights if node != self.id]
        self.numbers: dict[str, float] = {}
        self.mailbox: dict[int, Version] = {}
        #: Updates and gradients begun; samples taken, where the time says how many.
        self.updates = self.begun = self.taken = 0
        self.has_gradient = self.is_in_flight = self.has_stopped = False
        #: Whether it lets what it sends leave before it computes on, and does so now.
        self.is_patient = self.is_held = False
        self.value = 0.0
        #: By how much the values of parts differ from it, where parts are mixed.
        self.offsets: dict[Part, float] = {}
        #: Changes of the row by others, and how many there were at the snapshot.
        self.changes = self.changes_at_snapshot = 0
        #: Updates of all nodes at the snapshot.
        self.made_at_snapshot = 0
        #: Seconds of computing so far, all of the gradient in flight counted, and
        #: when that is ready.
        self.busy_s = self.due_s = 0.0
        self.draws: dict[str, int] = {}
        self._drawn: dict[str, tuple[int, Any]] = {}
        #: For what waits to be done: made once, not at every event.
        self.alone = (self,)

    @property
    def row(self) -> Tensor:
        """Its row as it is now."""
        self.world.operations.finish()
        return self.tensor

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.world.nodes)

    @property
    def step_s(self) -> float:
        """Seconds that a gradient of the node has taken so far, on average."""
        return self.busy_s / max(1, self.begun)

    @property
    def local_steps(self) -> int:
        """Updates from one communication step to the next."""
        return self.world.block.setup.config.local_steps

    # --- training -----------------------------------------------------------------

    def compute(self) -> bool:
        """Begin the next gradient, unless the run ends; return whether it began."""
        if self.is_patient and self.id in self.world.waiting:
            self.is_held = True  # until its line is free
            return False
        self.changes_at_snapshot = self.changes
        return self.world.begin_gradient(self)

    def update(self, scale: float = 1.0) -> None:
        """Let the optimizer update the row by the gradient that is ready."""
        assert self.has_gradient, "an update needs a gradient that is ready"
        self.world.update(self, scale)
        self.has_gradient = False
        self.updates += 1
        self.value += 1.0 / scale

    # --- chance -------------------------------------------------------------------

    def draw(self, purpose: str) -> float:
        """Return a number in [0, 1) that depends on seed, node and earlier draws
        only.
        """
        place = self.draws.get(purpose, 0)
        self.draws[purpose] = place + 1
        first, drawn = self._drawn.get(purpose, (0, ()))
        if not first <= place < first + len(drawn):
            first, drawn = place, self.world.draw_ahead(purpose, self.id, place)
            self._drawn[purpose] = first, drawn
        return drawn[place - first]

    def happens(self, chance: float, purpose: str) -> bool:
        """Draw whether something happens; what is certain is not drawn."""
        return chance >= 1.0 or (chance > 0.0 and self.draw(purpose) < chance)

    def draw_nodes(self, among: Sequence[NodeId], count: int) -> list[NodeId]:
        """Return different nodes, each as likely, ascending."""
        if count >= len(among):
            return list(among)
        left, chosen = list(among), list[NodeId]()
        for _ in range(count):
            chosen.append(left.pop(int(self.draw("node") * len(left))))
        return sorted(chosen)

    # --- communication ------------------------------------------------------------

    @property
    def step(self) -> int:
        """The step of the node: of the update that a ready gradient makes, or of
        the last one.
        """
        return self.updates + self.has_gradient

    def communicates(self, *, now: bool = False) -> bool:
        """Whether the schedule lets the node communicate with this step."""
        chance = self.world.intensity(self.step, always=now)
        return self.happens(chance, "communicates")

    def keep(self, **numbers: float) -> Version:
        """Return a copy of the model as it is now."""
        made = self.world.version(self, numbers)
        self.world.operations.add(do.keep, (), (made, self.tensor), self.alone, (made,))
        return made

    def send(
        self,
        receivers: Sequence[NodeId],
        *,
        waits: Literal["newest", "all", "wait"] = "newest",
        adds: str = "",
        **numbers: float,
    ) -> None:
        """Send the model, and numbers, to others; see `Node.send`.

        Args:
            receivers: To whom.
            waits: What waits while the line is busy.
            adds: The number by which what waits and what comes are averaged.
            numbers: What goes with the model.
        """
        self.is_patient = waits == "wait"
        if receivers:
            self.world.send(self, receivers, self.keep(**numbers), waits, adds)

    def send_parts(self, letters: Sequence[tuple[NodeId, Part]]) -> None:
        """Send parts of the model in place of those that wait; see
        `Node.send_parts`.
        """
        self.world.send_parts(self, letters)

    def meet(self, other: NodeId, *, begun: bool = False, alone: bool = False) -> None:
        """Begin to exchange models with another node.

        Args:
            other: The other node.
            begun: Whether the models of now are averaged in the end.
            alone: Whether each takes part in no other exchange.
        """
        self.world.meet(self, other, begun, alone)

    def send_round(self) -> bool:
        """Send the model as the round of this step says; return whether there is
        one.
        """
        return self.world.rounds.send(self)

    def await_round(self) -> None:
        """Be called with ``round`` as soon as all models of the round are there."""
        self.world.rounds.await_(self)

    # --- what becomes of the row --------------------------------------------------

    def mix(self, own: float, others: Mapping[int, tuple[float, Version]]) -> None:
        """x_i <- own x_i + sum_j w_j x_j, added in ascending order of the others."""
        terms = [others[place] for place in sorted(others)]
        self._mix(self.tensor, own, terms)
        value = own * self.value
        for weight, version in terms:
            value += weight * version.value
        self.value = value

    def mix_part(self, part: Part, own: float, others: Sequence[Version]) -> None:
        """Mix one part of the row, with equal weights of the others."""
        weight = (1.0 - own) / max(1, len(others))
        self._mix(part.of(self.whole), own, [(weight, version) for version in others])
        value = own * (self.value + self.offsets.get(part, 0.0))
        for version in others:
            value += weight * version.value
        self.offsets[part] = value - self.value

    def _mix(self, row: Tensor, own: float, terms: list[tuple[float, Version]]) -> None:
        """Mix the row, or a part of it."""
        if self.world.acting != "gradient":
            # A change by others, apart from a node's own mixing at its update.
            self.changes += 1
        versions = [version for _, version in terms]
        item = row, own, terms
        self.world.operations.add(do.mix, (), item, versions, self.alone)

    @property
    def mean_value(self) -> float:
        """The ``value`` of the whole row, whose parts may have values of their own."""
        own = sum(len(part.of(self.whole)) * by for part, by in self.offsets.items())
        return self.value + own / len(self.whole)

    def sum(self, terms: Sequence[tuple[float, Version]]) -> Version:
        """Return a weighted sum of models, for the mailbox."""
        made, terms = self.world.version(self, {}), list(terms)
        versions = [version for _, version in terms]
        item = made, self.tensor, terms
        self.world.operations.add(do.add_up, (), item, versions, (made,))
        made.value = sum([weight * version.value for weight, version in terms], 0.0)
        return made

    def add(self, version: Version, weight: float) -> None:
        """x_i <- x_i + weight times a model."""
        self._mix(self.tensor, 1.0, [(weight, version)])
        self.value += weight * version.value

    def average(self, event: NodeEvent) -> None:
        """Replace the models of both ends of a transfer by their mean."""
        other = self.world.nodes[event.sender]
        other.changes += 1
        own, theirs, both = event.own, event.version, (self, other)
        if own is not None and theirs is not None:
            # What others did meanwhile stays: only the difference of then is
            # shared.
            item = self.tensor, other.tensor, own, theirs
            wait = self.world.operations
            wait.add(do.share_difference, (), item, (own, theirs), both)
            change = (theirs.value - own.value) / 2
            self.value, other.value = self.value + change, other.value - change
            return
        pair = self.tensor, other.tensor
        self.world.operations.add(do.average, (), pair, (), both)
        self.value = other.value = (self.value + other.value) / 2

    def mix_round(self) -> None:
        """x_i <- sum_j W_ij x_j with the models of the round."""
        self.world.rounds.mix(self)
