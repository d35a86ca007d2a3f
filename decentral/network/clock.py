"""When every node has done what: simulated seconds, a pure function of what was computed and sent.

A node waits for the messages that it receives and for its own to leave, never for the rest of the
world; only a global average makes all wait for the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decentral.mixing.base import Mixing
from decentral.network.links import (
    AllReduce,
    Floats,
    Integers,
    Network,
    all_reduce_s,
    gossip,
    ring_s,
)
from decentral.registry import Bound


@dataclass
class Clock:
    """The clocks of all nodes, by id; without a network they stand still."""

    network: Network | None
    compute: Bound | None
    seed: int = 0
    all_reduce: AllReduce = "auto"
    ready_s: Floats = field(init=False)  # [N], when each node is done with what it does
    departed_s: Floats | None = None  # [N], when rows left that travel during a computation
    arrives_s: Floats | None = None  # [N], when what nodes do not wait for yet will be there
    _known: dict[Any, float] = field(default_factory=dict[Any, float], repr=False)

    def __post_init__(self) -> None:
        """Begin at zero."""
        self.ready_s = np.zeros(self.network.nodes if self.network else 0)

    def work(self, step: int, amount: float = 1.0) -> None:
        """Let every node compute the gradient of a step, ``amount`` times the first step's work."""
        if self.network is None or self.compute is None:
            return
        nodes = np.arange(self.network.nodes)
        self.ready_s = self.ready_s + amount * self.compute(nodes, step, self.seed)

    def depart(self) -> None:
        """Let the messages of the next gossip leave now, before the work that comes first."""
        self.departed_s = self.ready_s

    def postpone(self, since_s: Floats) -> None:
        """Let nodes go on from where they stood ``since_s``; `wait` is for what was sent then."""
        self.arrives_s, self.ready_s = self.ready_s, since_s

    def wait(self) -> None:
        """Let every node wait for what was postponed."""
        if self.arrives_s is not None:
            self.ready_s = np.maximum(self.ready_s, self.arrives_s)
        self.arrives_s = None

    def gossip(self, mixing: Mixing, size: float, live: Sequence[int]) -> None:
        """Let messages of ``size`` bytes go where a mixing says, between positions of ``live``."""
        if self.network is None:
            return
        ids = np.asarray(live)
        receivers = np.repeat(np.arange(mixing.nodes), np.diff(mixing.indptr))
        others = receivers != mixing.senders
        begins_s = self.ready_s if self.departed_s is None else self.departed_s
        arrives = np.repeat([True, False], [int(others.sum()), mixing.lost.shape[1]])
        receivers = ids[np.r_[receivers[others], mixing.lost[0]]]
        senders = ids[np.r_[mixing.senders[others], mixing.lost[1]]]
        done_s = gossip(self.network, begins_s, senders, receivers, size, arrives)
        self.ready_s = np.maximum(self.ready_s, done_s)
        self.departed_s = None

    def average(self, nodes: Iterable[int], size: float) -> None:
        """Let nodes take a global average: it begins with the last, ends for all at once."""
        if self.network is not None:
            members = np.array(sorted(nodes))
            self._together(members, self._all_reduce_s(self.network, members, size))

    def gather(self, nodes: Iterable[int], size: float) -> None:
        """Let nodes tell each other ``size`` bytes: half of the way of a ring all-reduce."""
        if self.network is not None:
            members = np.array(sorted(nodes))
            self._together(members, ring_s(self.network, members, len(members) * size) / 2)

    def _together(self, members: Integers, took_s: float) -> None:
        self.ready_s = self.ready_s.copy()  # what has departed still looks at the old times
        self.ready_s[members] = self.ready_s[members].max() + took_s

    def _all_reduce_s(self, network: Network, members: Integers, size: float) -> float:
        key = members.tobytes(), size
        if key not in self._known:
            self._known[key] = all_reduce_s(network, members, size, self.all_reduce)
        return self._known[key]

    def now_s(self, nodes: Iterable[int]) -> float:
        """Return when the last of some nodes is done."""
        return float(self.ready_s[sorted(nodes)].max())

    def state(self) -> dict[str, list[float] | None]:
        """Return the clocks as plain numbers."""
        arrives = None if self.arrives_s is None else self.arrives_s.tolist()
        return {"ready_s": self.ready_s.tolist(), "arrives_s": arrives}

    def restore(self, state: Mapping[str, list[float] | None]) -> None:
        """Stand where another clock stood."""
        arrives = state["arrives_s"]
        self.ready_s = np.array(state["ready_s"])
        self.arrives_s = None if arrives is None else np.array(arrives)
