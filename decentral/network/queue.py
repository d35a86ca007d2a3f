"""The order in which things happen in simulated time, and the lines over which
messages leave and arrive, one event at a time.

Nothing here touches a tensor: what happens when is a pure function of seconds,
bytes and node ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from heapq import heapify, heappush
from typing import Any, NamedTuple

from decentral.network.links import Network
from decentral.topology.labels import NodeId


class Moment(IntEnum):
    """What can happen at one instant, in the order in which it does.

    Gradients first, then transfers that end, then messages: only so is equal speed
    with no latency the synchronous algorithm.
    """

    GRADIENT = 0
    TRANSFER = 1
    LINE = 2  # a sender's line is free again
    BEGINNING = 3  # the first byte of a message is there
    MESSAGE = 4


class Event(NamedTuple):
    """One thing that happens: at ``time_s``, to ``node``; ``number`` tells apart
    what is otherwise equal, in the order of its making.
    """

    time_s: float
    moment: Moment
    node: NodeId
    number: int
    what: Any = None


class Queue:
    """All that is going to happen; the smallest of ``heap`` comes next."""

    def __init__(self) -> None:
        """Begin with nothing."""
        #: Plain tuples, as of an `Event`: a heap compares millions of them.
        self.heap: list[tuple[float, int, int, int, Any]] = []
        self.count = 0

    def __len__(self) -> int:
        """Return how much is going to happen."""
        return len(self.heap)

    def push(self, time_s: float, moment: Moment, node: NodeId, what: Any = None) -> None:
        """Let something happen.

        Args:
            time_s: When.
            moment: What kind of thing.
            node: To whom.
            what: What goes with it.
        """
        self.count += 1
        heappush(self.heap, (time_s, moment, node, self.count, what))

    def listed(self) -> list[Event]:
        """Return all that is going to happen, in order."""
        return [Event(t, Moment(m), NodeId(n), k, what) for t, m, n, k, what in sorted(
            self.heap, key=lambda one: one[:4])]  # fmt: skip

    def restore(self, events: Iterable[Event], count: int) -> None:
        """Hold what another queue held, and count on from its ``count``."""
        self.heap = [(e.time_s, int(e.moment), e.node, e.number, e.what) for e in events]
        heapify(self.heap)
        self.count = count


class Leaving(NamedTuple):
    """One message on its way: when its sender's line has let it go, when its first
    byte is there, and when its last is, if the receiver's line takes it at once.
    """

    left_s: float
    begins_s: float
    arrives_s: float


#: (node, when) -> bytes per second up and down, and seconds more on every way;
#: None: as the network says.
OwnLine = Callable[[NodeId, float], tuple[float | None, float | None, float | None]]


class Lines:
    """Every node's line to the network: shared by what it sends at once, and first
    in, first out for what it receives.
    """

    def __init__(self, network: Network, line: OwnLine | None = None) -> None:
        """Begin with all lines free.

        Args:
            network: What lies between nodes.
            line: What a node's line is like at a moment, where that changes.
        """
        self._line = line
        # Lists: one entry at a time is read from them, millions of times.
        self._site = network.site.tolist()
        self._latency_s = network.latency_s.tolist()
        self._bandwidth_Bps = network.bandwidth_Bps.tolist()
        self._up_Bps, self.down_Bps = network.up_Bps.tolist(), network.down_Bps.tolist()
        #: Until when each node's line is busy with what it sends, and receives.
        self.free_s = [0.0] * network.nodes
        self.taken_s = [0.0] * network.nodes
        #: Seconds in which lines send, of all nodes together.
        self.sent_s = 0.0

    @property
    def change(self) -> bool:
        """Whether nodes' lines are now like this, now like that."""
        return self._line is not None

    def leave(
        self, now_s: float, sender: NodeId, receivers: Sequence[NodeId], size: float
    ) -> list[Leaving]:
        """Let messages of ``size`` bytes leave at once, with equal shares of the
        line: r = min(bandwidth, up / messages).

        Args:
            now_s: When they leave.
            sender: Who sends them.
            receivers: Who gets one each.
            size: Bytes of each.
        """
        together, free_s = len(receivers), now_s
        leaving: list[Leaving] = []
        for receiver in receivers:
            one = self._began(receiver, sender, now_s, together, size)
            leaving.append(one)
            if one.left_s > free_s:
                free_s = one.left_s
        self.free_s[sender] = free_s
        self.sent_s += free_s - now_s
        return leaving

    def take(self, receiver: NodeId, leaving: Leaving, size: float) -> float:
        """Return when a message that begins to arrive has arrived: behind all that
        began before it, f = max(f_last, begin) + size / down.

        Args:
            receiver: Who gets it.
            leaving: The message.
            size: Its bytes.
        """
        begins_s = max(self.taken_s[receiver], leaving.begins_s)
        down_Bps = self._now(receiver, begins_s)[1]
        self.taken_s[receiver] = begins_s + size / down_Bps
        return max(leaving.arrives_s, self.taken_s[receiver])

    def pair_s(self, one: NodeId, other: NodeId, size: float, now_s: float) -> float:
        """Let two nodes give each other ``size`` bytes; return the seconds of that.

        Args:
            one: A node.
            other: The other one.
            size: Bytes, each way.
            now_s: When they begin.
        """
        there_s = self._way_s(one, other, size, now_s)
        return max(there_s, self._way_s(other, one, size, now_s))

    def _way_s(
        self, sender: NodeId, receiver: NodeId, size: float, now_s: float
    ) -> float:
        here, there = self._site[sender], self._site[receiver]
        up_Bps, down_Bps = self._up_Bps[sender], self.down_Bps[receiver]
        latency_s = self._latency_s[here][there]
        if self._line is not None:
            up_Bps, _, more_s = self._now(sender, now_s)
            _, down_Bps, less_s = self._now(receiver, now_s)
            latency_s = latency_s + more_s + less_s
        sending_s = size / min(self._bandwidth_Bps[here][there], up_Bps, down_Bps)
        self.sent_s += sending_s
        return latency_s + sending_s

    def _now(self, node: NodeId, at_s: float) -> tuple[float, float, float]:
        """Return bytes per second up and down of a node's line at a moment, and the
        seconds that it adds to every way.
        """
        up_Bps, down_Bps = self._up_Bps[node], self.down_Bps[node]
        if self._line is None:
            return up_Bps, down_Bps, 0.0
        up, down, more_s = self._line(node, at_s)
        return up or up_Bps, down or down_Bps, more_s or 0.0

    def round_s(
        self,
        receiver: NodeId,
        begun: Sequence[tuple[NodeId, float, int]],
        size: float,
    ) -> float:
        """Return when a node has all messages of one round, by the rule of a
        synchronous round (`links.gossip`), to the bit.

        Args:
            receiver: Who waits for them.
            begun: Of each message its sender, when it began to leave, and how many
                messages left with it; in ascending order of senders.
            size: Bytes of a message.
        """
        ways = [self._began(receiver, *one, size) for one in begun]
        # What arrives from some moment on takes at least its bytes over the line.
        order = sorted(range(len(ways)), key=lambda place: ways[place].begins_s)
        done_s = 0.0
        for place, one in enumerate(order):
            later = len(order) - place
            down_Bps = self._now(receiver, ways[one].begins_s)[1]
            queued_s = ways[one].begins_s + later * size / down_Bps
            done_s = max(done_s, ways[one].arrives_s, queued_s)
        return done_s

    def _began(
        self, receiver: NodeId, sender: NodeId, begin_s: float, together: int, size: float
    ) -> Leaving:
        here, there = self._site[sender], self._site[receiver]
        rate, latency_s = self._up_Bps[sender], self._latency_s[here][there]
        if self._line is not None:
            rate, _, more_s = self._now(sender, begin_s)
            latency_s += more_s + self._now(receiver, begin_s)[2]
        rate /= together
        most_Bps = self._bandwidth_Bps[here][there]
        if most_Bps < rate:
            rate = most_Bps
        left_s = begin_s + size / rate
        return Leaving(left_s, begin_s + latency_s, left_s + latency_s)

    def state(self) -> dict[str, Any]:
        """Return until when lines are busy, and how long they were."""
        free_s, taken_s = list(self.free_s), list(self.taken_s)
        return {"free_s": free_s, "taken_s": taken_s, "sent_s": self.sent_s}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as busy as other lines were."""
        self.free_s, self.taken_s = list(state["free_s"]), list(state["taken_s"])
        self.sent_s = state.get("sent_s", 0.0)  # older checkpoints do not say
