"""When every node has done what, in simulated seconds: in a run, and forecast
before it.

A pure function of what was computed and sent. A node waits for the messages that it
receives and for its own to leave, never for the rest of the world; only a global
average makes all wait for the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from decentral.errors import ConfigError
from decentral.mixing.base import Mixing
from decentral.network.compute import seconds_of
from decentral.network.links import (
    AllReduce,
    Floats,
    Integers,
    Network,
    all_reduce_s,
    gossip,
    ring_s,
)
from decentral.network.planning import (
    RoundPlanner,
    Size,
    all_reduce_messages,
    expected_bytes,
    preview,
)
from decentral.registry import ConfiguredPlugin
from decentral.schedules.action import CommunicationSchedule
from decentral.topology.labels import NodeId, all_ids
from decentral.traits import CommunicationTraits, traits_of
from decentral.units import parse_bytes


@dataclass
class Clock:
    """The clocks of all nodes, by id; without a network they stand still."""

    network: Network | None
    compute: ConfiguredPlugin | None
    seed: int = 0
    all_reduce: AllReduce = "auto"
    ready_s: Floats = field(init=False)  # [N], when each node is done with what it does
    departed_s: Floats | None = (
        None  # [N], when rows left that travel during a computation
    )
    arrives_s: Floats | None = (
        None  # [N], when what nodes do not wait for yet will be there
    )
    _known: dict[Any, float] = field(default_factory=dict[Any, float], repr=False)

    def __post_init__(self) -> None:
        """Begin at zero."""
        self.ready_s = np.zeros(self.network.nodes if self.network else 0)

    def work(self, step: int, amount: float = 1.0, nodes: Integers | None = None) -> None:
        """Let every node compute the gradient of a step.

        Args:
            step: The step.
            amount: The work, in that of the first step.
            nodes: Who computes, by id; none: all.
        """
        if self.network is None or self.compute is None:
            return
        nodes = np.arange(self.network.nodes) if nodes is None else nodes
        # A new array: what has departed keeps the times before this work.
        self.ready_s = self.ready_s.copy()
        begins_s = self.ready_s[nodes]
        self.ready_s[nodes] = begins_s + seconds_of(
            self.compute, nodes, step, self.seed, begins_s, amount
        )

    def depart(self) -> None:
        """Let the messages of the next gossip leave now, before the work that comes
        first.
        """
        self.departed_s = self.ready_s

    def postpone(self, since_s: Floats) -> None:
        """Let nodes go on from where they stood ``since_s``; `wait` is for what was
        sent then.
        """
        self.arrives_s, self.ready_s = self.ready_s, since_s

    def wait(self) -> None:
        """Let every node wait for what was postponed."""
        if self.arrives_s is not None:
            self.ready_s = np.maximum(self.ready_s, self.arrives_s)
        self.arrives_s = None

    def gossip(self, mixing: Mixing, size: float, live: Sequence[NodeId]) -> None:
        """Let messages of ``size`` bytes go where a mixing says, between positions
        of ``live``.
        """
        if self.network is None:
            return
        ids = np.asarray(live)
        receivers = mixing.receivers
        others = receivers != mixing.senders
        # Rows that left early travel under the computation that came in between.
        begins_s = self.ready_s if self.departed_s is None else self.departed_s
        # Lost messages take room on the sender's line, but nobody waits for them.
        arrives = np.repeat([True, False], [int(others.sum()), mixing.lost.shape[1]])
        receivers = ids[np.concatenate((receivers[others], mixing.lost[0]))]
        senders = ids[np.concatenate((mixing.senders[others], mixing.lost[1]))]
        done_s = gossip(self.network, begins_s, senders, receivers, size, arrives)
        self.ready_s = np.maximum(self.ready_s, done_s)
        self.departed_s = None

    def average(
        self, nodes: Iterable[NodeId], size: float, later: Sequence[NodeId] = ()
    ) -> None:
        """Let nodes take a global average: it begins with the last, ends for all at
        once.

        Args:
            nodes: Whose average it is.
            size: Bytes of a row.
            later: Nodes that begin with it when they are drawn, so not before.
        """
        if self.network is None:
            return
        members = np.array(sorted(nodes))
        self._together(members, self._all_reduce_s(self.network, members, size))
        rest = np.array(later, dtype=np.int64)
        self.ready_s[rest] = np.maximum(self.ready_s[rest], self.ready_s[members[0]])

    def gather(self, nodes: Iterable[NodeId], size: float) -> None:
        """Let nodes tell each other ``size`` bytes: half of the way of a ring
        all-reduce.
        """
        if self.network is not None:
            members = np.array(sorted(nodes))
            self._together(
                members, ring_s(self.network, members, len(members) * size) / 2
            )

    def _together(self, members: Integers, took_s: float) -> None:
        # what has departed still looks at the old times
        self.ready_s = self.ready_s.copy()
        self.ready_s[members] = self.ready_s[members].max() + took_s

    def _all_reduce_s(self, network: Network, members: Integers, size: float) -> float:
        # Few sets of members occur in a run, and a ring over all sites is no cheap
        # sum.
        key = members.tobytes(), size
        if key not in self._known:
            self._known[key] = all_reduce_s(network, members, size, self.all_reduce)
        return self._known[key]

    def now_s(self, nodes: Iterable[NodeId]) -> float:
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


# --- what a run will take ---------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """Seconds until the last node is done, and the logical bytes of all nodes
    together.
    """

    seconds: float
    bytes: float
    rounds: int


def forecast(planner: RoundPlanner, clock: Clock, size: float) -> Forecast:
    """Replay a planner whose messages have ``size`` bytes; ``clock`` moves on.

    Exactly what a run with the same seed shows as ``time/simulated_s``, if its
    batch size stays and nothing travels under its steps.

    Args:
        planner: What is sent when.
        clock: The clock of the run; it moves on.
        size: Bytes of a message.
    """
    step = round = messages = 0
    for planned in preview(planner):
        drawn = planner.drawn(planned.step)
        for earlier in range(step, planned.step):
            clock.work(earlier, nodes=drawn)
        _send(planner, clock, planned.step, round, size)
        step, round, messages = planned.step, planned.round, planned.messages
    return Forecast(clock.now_s(all_ids(planner.nodes)), messages * size, round)


def _send(
    planner: RoundPlanner, clock: Clock, step: int, round: int, size: float
) -> None:
    """Send what a planner says at one communication step."""
    action = planner.plan(planner.progress(step, round))
    final_merge = planner.final_merge() if step == planner.steps else None
    for each in (action, final_merge):
        if each is not None and each.mixing is not None:
            clock.gossip(each.mixing, size, all_ids(planner.nodes))
        elif each is not None:
            resting = [NodeId(place) for place in each.resting - each.unavailable]
            there = {*all_ids(planner.nodes)} - each.unavailable - each.resting
            if there:
                clock.average(map(NodeId, there), size, later=resting)


def forecast_all_reduce(clock: Clock, nodes: int, steps: int, size: float) -> Forecast:
    """Return what averaging gradients of ``size`` bytes in every step takes.

    Args:
        clock: The clock of the run; it moves on.
        nodes: Number of nodes.
        steps: Number of steps.
        size: Bytes of a gradient.
    """
    for step in range(steps):
        clock.work(step)
        clock.average(all_ids(nodes), size)
    return Forecast(
        clock.now_s(all_ids(nodes)), all_reduce_messages(nodes, steps) * size, steps
    )


# --- budgets ----------------------------------------------------------------------

_LARGEST = 1e9
_BISECTIONS = 200


def budget_bytes(budget: str | float, nodes: int, all_reduce_bytes: float) -> float:
    """Turn ``2%`` or ``0.02`` of all-reduce's bytes, or ``2MB/node``, into bytes of
    all nodes.

    Args:
        budget: A share of all-reduce's bytes, or bytes per node.
        nodes: Number of nodes.
        all_reduce_bytes: Bytes of all-reduce at every step of the run.
    """
    text = str(budget).strip()
    if text.endswith("/node"):
        return nodes * parse_bytes(text.removesuffix("/node"), "budget")
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = -1.0
    if not share > 0:
        raise ConfigError(f"budget: cannot read {budget!r}; write 2%, 0.02 or 2MB/node.")
    return share * all_reduce_bytes


def with_factor(schedule: CommunicationSchedule, factor: float) -> CommunicationSchedule:
    """Return a budgeted schedule with its factor set."""
    rule = schedule.rule
    return CommunicationSchedule(
        ConfiguredPlugin(rule.plugin, {**rule.settings, "factor": factor}, rule.common)
    )


def solve_budget(planner: RoundPlanner, size: Size, gradient_bytes: int) -> RoundPlanner:
    """Solve the factor of a schedule scaled to a budget; others are returned as
    they are.

    ``size`` is that of messages, ``gradient_bytes`` that of one of all-reduce's.
    Expected bytes grow with the factor and saturate where every intensity is
    clipped to 1. Raises ConfigError naming the reachable minimum or maximum when
    the budget lies outside.

    Args:
        planner: What is sent when.
        size: Bytes of the messages.
        gradient_bytes: Bytes of a gradient in an all-reduce.
    """
    schedule = planner.schedule
    budgeted = traits_of(schedule.rule, CommunicationTraits).budgeted
    if not budgeted or schedule.rule.settings["factor"]:
        return planner
    if schedule.closed_loop:
        raise ConfigError(
            "communication 'scale_to_budget': a schedule that reacts to the run cannot be scaled "
            "before it; set its max_budget instead."
        )
    budget = schedule.rule.settings["budget"]
    reference = all_reduce_messages(planner.nodes, planner.steps) * gradient_bytes
    wanted = budget_bytes(budget, planner.nodes, reference)

    def spent(factor: float) -> float:
        scaled = replace(planner, schedule=with_factor(schedule, factor))
        return expected_bytes(scaled, size)

    for factor, word, outside in (
        (1e-12, "least", wanted.__lt__),
        (_LARGEST, "most", wanted.__gt__),
    ):
        reachable = spent(factor)
        if outside(reachable) and abs(wanted - reachable) > 1e-9 * reference:
            raise ConfigError(
                f"communication 'scale_to_budget': budget {budget} cannot be reached; the {word} "
                "this schedule can spend on this topology is "
                f"{reachable / max(reference, 1):.3%} of all-reduce."
            )
    low, high = 1e-12, _LARGEST
    for _ in range(_BISECTIONS):
        # In the middle of the logarithms: the factor may be anything from 1e-12 to
        # 1e9.
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle) < wanted else (low, middle)
        if high / low < 1 + 1e-9:
            break
    # The upper end: at least what was asked for, where bytes jump with the factor.
    return replace(planner, schedule=with_factor(schedule, high))
