"""The first seconds of a run in simulated time: who computes, whose messages are
under way, and who is away, for a strip in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from decentral.topology.labels import NodeId

#: Nodes that are shown, of many an even sample.
NODES = 12
#: How long the strip is, in computing times of the median node.
_STEPS = 12
#: Messages that are kept; later ones are left out.
_MESSAGES = 1000
#: How often it is asked whether a node is away.
_LOOKS = 400

Span = tuple[NodeId, float, float]


class Strip:
    """What happens until ``until_s``, noted while it does."""

    def __init__(self, nodes: int) -> None:
        """Show all of some nodes, or an even sample of many."""
        count = min(nodes, NODES)
        self.nodes = [NodeId(place * nodes // count) for place in range(count)]
        self.until_s = 0.0
        self.computing: list[Span] = []
        #: Sender, receiver, when it leaves and when it arrives.
        self.messages: list[tuple[NodeId, NodeId, float, float]] = []
        self._shown = frozenset(self.nodes)
        self.is_over = False

    def begin(self) -> None:
        """Take the strip's length from the first gradients, which have begun."""
        self.until_s = _STEPS * median(
            end_s for _, _, end_s in self.computing or [(0, 0, 0.0)]
        )

    def compute(self, node: NodeId, begin_s: float, end_s: float) -> None:
        """Note that a node computes.

        Args:
            node: The node.
            begin_s: From when.
            end_s: To when.
        """
        if not self.is_over and node in self._shown:
            self.computing.append((node, begin_s, end_s))

    def message(
        self, sender: NodeId, receiver: NodeId, begin_s: float, end_s: float
    ) -> None:
        """Note that a message is under way.

        Args:
            sender: Who sends it.
            receiver: Who gets it.
            begin_s: When it leaves.
            end_s: When it arrives.
        """
        kept = not self.is_over and len(self.messages) < _MESSAGES
        if kept and sender in self._shown:
            self.messages.append((sender, receiver, begin_s, end_s))

    def close(
        self, now_s: float, away_s: Callable[[NodeId, float], float] | None
    ) -> dict[str, Any]:
        """Note no more, and return what was noted, for the log.

        Args:
            now_s: How far the run is, if it ends before the strip does.
            away_s: Seconds from a moment until a node is online; none: all always
                are.
        """
        self.is_over, until_s = True, min(self.until_s, now_s)
        away: list[Span] = []
        for node in self.nodes if away_s is not None else ():
            at_s = 0.0
            while away_s is not None and at_s < until_s:
                lasts_s = away_s(node, at_s)
                if lasts_s:
                    away.append((node, at_s, at_s + lasts_s))
                at_s += lasts_s or until_s / _LOOKS
        computing = [one for one in self.computing if one[1] < until_s]
        messages = [one for one in self.messages if one[2] < until_s]
        self.computing, self.messages = [], []
        return {
            "until_s": until_s, "nodes": self.nodes, "computing": computing,
            "messages": messages, "away": away,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "until_s": self.until_s,
            "computing": self.computing,
            "messages": self.messages,
            "is_over": self.is_over,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another stood."""
        self.until_s, self.is_over = state["until_s"], state["is_over"]
        self.computing = [(NodeId(n), *span) for n, *span in state["computing"]]
        self.messages = [
            (NodeId(i), NodeId(j), *span) for i, j, *span in state["messages"]
        ]
