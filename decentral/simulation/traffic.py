"""What nodes in simulated time send each other: models that leave, wait for a line
that is busy, and arrive; and pairs that exchange theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from decentral.algorithms.node import NodeEvent, Part, Version
from decentral.loop.block import Block
from decentral.network.queue import Leaving, Lines, Moment, Queue
from decentral.registry import ConfiguredPlugin
from decentral.simulation import operations as do
from decentral.simulation.nodes import SimulatedNode
from decentral.simulation.operations import Operations
from decentral.simulation.strip import Strip
from decentral.topology.labels import NodeId
from decentral.traits import ComputeTraits, traits_of

_ROUND = NodeEvent("round")


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two nodes that exchange models; ``versions`` are those of its begin, the
    node's own first, where these are averaged.
    """

    node: NodeId
    other: NodeId
    alone: bool
    versions: tuple[Version, Version] | None = None


class Traffic(ABC):
    """All that is under way between the nodes of a block.

    ``now_s`` is the simulated time.
    """

    nodes: list[SimulatedNode]

    def __init__(
        self,
        block: Block,
        compute: ConfiguredPlugin,
        lines: Lines,
        size: float | None = None,
    ) -> None:
        """Begin with nothing under way.

        Args:
            block: The rows.
            compute: How long steps take, and when nodes are away.
            lines: Over what messages travel.
            size: Bytes of a message; none: those of a row.
        """
        self.block, self.lines, self.queue = block, lines, Queue()
        self.compute, self.machines = compute, traits_of(compute, ComputeTraits)
        self.may_leave = self.machines.away_s is not None
        loses = self.machines.loses
        self.loses = loses is not None and loses(compute.settings)
        self.operations, self.strip = Operations(), Strip(len(block.hosted))
        # Only a line that is shared needs to know when a message begins to arrive.
        self._free = [isinf(rate) and not lines.change for rate in lines.down_Bps]
        self._bytes = block.setup.size.gossip if size is None else round(size)
        self.size = float(self._bytes)
        self.now_s = 0.0
        self.waiting: dict[NodeId, list[tuple[list[NodeId], Version]]] = {}
        self.meetings: list[Meeting] = []
        self.meeting: set[NodeId] = set()
        self.dropped = self.lost = self.versions = self.communications = 0
        #: Bytes times seconds of messages, booked when they leave, to their arrival.
        self.carried = 0.0

    @abstractmethod
    def tell(self, node: SimulatedNode, event: NodeEvent) -> None:
        """Call the algorithm for what has happened to a node."""

    def version(self, node: SimulatedNode, numbers: dict[str, float]) -> Version:
        """Return a version of a node's model, which is not copied yet."""
        self.versions += 1
        settle = self.operations.finish
        return Version(self.versions, node.id, node.value, settle, numbers)

    def send(
        self,
        node: SimulatedNode,
        receivers: Sequence[NodeId],
        version: Version,
        waits: str,
        adds: str,
    ) -> None:
        """Send a model, at once or when the sender's line is free.

        Args:
            node: The sender.
            receivers: To whom.
            version: The model.
            waits: Whether the ``newest`` model takes the place of what waits while the
                line is busy.
            adds: The number by which models that wait are joined; empty: they are
                not.
        """
        free_s = self.lines.free_s[node.id]
        if free_s <= self.now_s and node.id not in self.waiting:
            self._leave(node.id, receivers, version)
            return
        waiting = self.waiting.get(node.id)
        if waiting is None:
            self.waiting[node.id] = [([*receivers], version)]
            self.queue.push(free_s, Moment.LINE, node.id)
        elif adds:
            self._join(waiting[-1][1], version, adds)
        elif waits == "newest":
            self.dropped += len(waiting[-1][0])
            waiting[-1] = ([*receivers], version)
        else:
            waiting.append(([*receivers], version))

    def _join(self, waiting: Version, newer: Version, name: str) -> None:
        """Let a model that waits be the mean of itself and a newer one, by a number
        of theirs that is summed.

        Args:
            waiting: The model that waits.
            newer: The one that comes.
            name: The name of the number.
        """
        old, new = waiting.numbers[name], newer.numbers[name]
        share = new / (old + new)
        item = waiting, newer, share
        self.operations.add(do.join, (), item, (newer,), (waiting,))
        waiting.value += share * (newer.value - waiting.value)
        waiting.numbers[name] = old + new

    def _leave(
        self, sender: NodeId, receivers: Sequence[NodeId], version: Version
    ) -> None:
        self.count_messages(len(receivers), version)
        size = self.size if version.part is None else self.bytes_of(version)
        now_s, push, free = self.now_s, self.queue.push, self._free
        leaving = self.lines.leave(now_s, sender, receivers, size)
        for receiver, one in zip(receivers, leaving, strict=True):
            self.carried += (one.arrives_s - now_s) * size
            if free[receiver]:
                if not self.strip.is_over:
                    self.strip.message(sender, receiver, now_s, one.arrives_s)
                push(one.arrives_s, Moment.MESSAGE, receiver, version)
            else:
                push(one.begins_s, Moment.BEGINNING, receiver, (one, version))

    def send_parts(
        self, node: SimulatedNode, letters: Sequence[tuple[NodeId, Part]]
    ) -> None:
        """Send parts of a model one after the other, in place of those that wait.

        Args:
            node: The sender.
            letters: Who gets which part, in this order; a part is copied once.
        """
        versions: dict[Part, Version] = {}
        # Of a model with fewer numbers than parts some are empty.
        letters = [one for one in letters if one[1].of(node.whole).numel()]
        for _, part in letters:
            if part not in versions:
                self.versions += 1
                value = node.value + node.offsets.get(part, 0.0)
                settle = self.operations.finish
                version = Version(self.versions, node.id, value, settle, part=part)
                item = version, part.of(node.whole)
                self.operations.add(do.keep, (), item, (node,), (version,))
                versions[part] = version
        if not letters:
            return
        self.communications += 1
        waiting = self.waiting.get(node.id)
        self.waiting[node.id] = [([to], versions[part]) for to, part in letters]
        if waiting is not None:
            self.dropped += len(waiting)
        else:
            free_s = max(self.now_s, self.lines.free_s[node.id])
            self.queue.push(free_s, Moment.LINE, node.id)

    def bytes_of(self, version: Version) -> float:
        """Return the bytes of a message: as many of a part as it has numbers."""
        if version.part is None:
            return self.size
        whole = self.nodes[version.owner].whole
        return self.size * len(version.part.of(whole)) / len(whole)

    def count_messages(self, count: int, version: Version | None = None) -> None:
        """Book messages that leave, each of a whole model or a ``version``; a
        communication of every node is a round.
        """
        stats = self.block.stats
        stats.messages += count
        if version is None or version.part is None:
            stats.bytes += count * self._bytes
            self.communications += 1
        else:
            stats.bytes += count * round(self.bytes_of(version))
        stats.rounds = self.communications // len(self.nodes)

    def meet(self, node: SimulatedNode, other: NodeId, begun: bool, alone: bool) -> None:
        """Let two nodes exchange models, as soon as both are free if they must be.

        Args:
            node: The node that asks.
            other: The other one.
            begun: Whether the models of the begin are averaged.
            alone: Whether each takes part in no other exchange.
        """
        versions = (node.keep(), self.nodes[other].keep()) if begun else None
        self.meetings.append(Meeting(node.id, other, alone, versions))
        self._begin_meetings()

    def _begin_meetings(self) -> None:
        """Let exchanges begin, first come first served; both ends are taken at
        once, so that nobody holds one and waits for another.
        """
        left: list[Meeting] = []
        for one in self.meetings:
            if one.alone and {one.node, one.other} & self.meeting:
                left.append(one)
                continue
            if one.alone:
                self.meeting |= {one.node, one.other}
            self.count_messages(2)
            ends_s = self.now_s + self.lines.pair_s(
                one.node, one.other, self.size, self.now_s
            )
            self.carried += (ends_s - self.now_s) * 2 * self.size
            self.strip.message(one.node, one.other, self.now_s, ends_s)
            self.queue.push(ends_s, Moment.TRANSFER, one.node, one)
        self.meetings = left

    def _end_meeting(self, meeting: Meeting) -> None:
        own, theirs = meeting.versions or (None, None)
        event = NodeEvent("transfer", meeting.other, theirs, own)
        if meeting.alone:
            self.meeting -= {meeting.node, meeting.other}
        self.tell(self.nodes[meeting.node], event)
        self._begin_meetings()

    # --- what happens to it -------------------------------------------------------

    def end_transfer(self, node: SimulatedNode, meeting: Meeting) -> None:
        """Let an exchange end, as soon as both of its nodes are there."""
        away_s = self.may_leave and max(
            self.away_s(one) for one in (meeting.node, meeting.other)
        )
        if away_s:
            self.carried += away_s * 2 * self.size
            self.queue.push(self.now_s + away_s, Moment.TRANSFER, node.id, meeting)
        else:
            self._end_meeting(meeting)

    def free_line(self, node: SimulatedNode, _: None) -> None:
        """Let the first of what waits leave over a line that is free."""
        receivers, version = self.waiting[node.id].pop(0)
        if not self.waiting[node.id]:
            del self.waiting[node.id]
        self._leave(node.id, receivers, version)
        if node.id in self.waiting:
            self.queue.push(self.lines.free_s[node.id], Moment.LINE, node.id)
        elif node.is_held:
            node.is_held = False
            node.compute()

    def begin_arrival(self, node: SimulatedNode, what: tuple[Leaving, Version]) -> None:
        """Let a message arrive over the line of its receiver."""
        leaving, version = what
        size = self.bytes_of(version)
        arrives_s = self.lines.take(node.id, leaving, size)
        self.carried += (arrives_s - leaving.arrives_s) * size
        begins_s = leaving.begins_s - (leaving.arrives_s - leaving.left_s)
        self.strip.message(version.owner, node.id, begins_s, arrives_s)
        self.queue.push(arrives_s, Moment.MESSAGE, node.id, version)

    def arrive(self, node: SimulatedNode, what: Any) -> None:
        """Give a node a model, or the word that its round is there."""
        away_s = self.may_leave and self.away_s(node.id)
        if away_s and self.loses:
            self.lost += 1
        elif away_s:
            if isinstance(what, Version):
                self.carried += away_s * self.bytes_of(what)
            self.queue.push(self.now_s + away_s, Moment.MESSAGE, node.id, what)
        elif isinstance(what, Version):
            self.tell(node, NodeEvent("message", what.owner, what))
        else:
            self.tell(node, _ROUND)

    def away_s(self, node: NodeId, now_s: float | None = None) -> float:
        """Return the seconds from a moment, or now, until a node is online; 0: it
        is.
        """
        away_s = self.machines.away_s
        if away_s is None:
            return 0.0
        at_s, seed = self.now_s if now_s is None else now_s, self.block.setup.config.seed
        return away_s(node, at_s, seed, self.compute.settings)

    # --- what it has come to ------------------------------------------------------

    @property
    def mean_under_way(self) -> float:
        """Bytes under way, on average over the time so far."""
        now_s, later = self.now_s, self.open_bytes_s
        for time_s, moment, _, _, what in self.queue.heap:
            if moment == Moment.TRANSFER:
                later += (time_s - now_s) * 2 * self.size
            elif moment == Moment.BEGINNING:
                leaving, version = what
                later += (leaving.arrives_s - now_s) * self.bytes_of(version)
            elif isinstance(what, Version):
                later += (time_s - now_s) * self.bytes_of(what)
        return (self.carried - later) / now_s if now_s else 0.0

    @property
    @abstractmethod
    def open_bytes_s(self) -> float:
        """Bytes times seconds that messages of open rounds have yet to travel."""

    @property
    def line_use(self) -> float:
        """Share of the time so far in which a node's line sends, on average."""
        now_s, lines = self.now_s, self.lines
        later_s = sum(max(0.0, free_s - now_s) for free_s in lines.free_s)
        nodes = len(lines.free_s)
        return (lines.sent_s - later_s) / (nodes * now_s) if now_s else 0.0
