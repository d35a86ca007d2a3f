"""The planner of rounds: what is sent in every communication step, known before
anything runs.

Who takes part may change: nodes can be lost with their worker, and return.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from decentral.errors import ConfigError
from decentral.faults.base import Faults
from decentral.mixing.base import Integers, Mixer, Mixing
from decentral.registry import build
from decentral.schedules.action import (
    Action,
    CommunicationSchedule,
    Merge,
    Participation,
)
from decentral.schedules.progress import (
    Feedback,
    Progress,
    StepTimeline,
    communication_steps,
)
from decentral.topology.base import Topology
from decentral.topology.labels import NodeId, Position, all_ids

NO_FAULTS = Faults()
NOBODY: frozenset[Position] = frozenset()


@dataclass(frozen=True)
class RoundAction:
    """What happens in one communication step: gossip with a mixing, or a global
    merge.
    """

    intensity: float
    mixing: Mixing | None = None
    # positions of nodes that take no part for now
    unavailable: frozenset[Position] = frozenset()
    # positions of nodes that are not drawn: they give nothing to a merge, whose model
    # is what they begin with when they are drawn next
    resting: frozenset[Position] = frozenset()
    # all of a model, where an algorithm sends parts of it in turn
    full_model: bool = False

    @property
    def is_merge(self) -> bool:
        """Whether this is a global merge."""
        return self.mixing is None


@dataclass(frozen=True)
class RoundPlanner:
    """Topology, weights and schedule together: decides what is sent at a
    communication step.
    """

    mixer: Mixer
    schedule: CommunicationSchedule
    steps: int
    local_steps: int
    timeline: StepTimeline | None = None  # None: every step takes the same
    faults: Faults = NO_FAULTS
    live: tuple[NodeId, ...] | None = None  # ids by position; None: all
    participation: Participation | None = None  # None: all nodes in every round

    @property
    def ids(self) -> Integers:
        """The ids of the nodes, by position."""
        return np.arange(self.nodes) if self.live is None else np.array(self.live)

    @property
    def doubly_stochastic(self) -> bool:
        """Whether every round keeps the mean of the nodes, whatever goes wrong."""
        if not self.faults.any and self.participation is None:
            return self.mixer.doubly_stochastic
        # The receiver of a message that is lost keeps its weight, so that rows
        # still sum to one. Columns do only where both directions are lost together.
        return self.mixer.keeps_balance and not self.faults.one_way

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return self.mixer.topology.nodes

    def is_communication_step(self, step: int) -> bool:
        """Whether nodes may communicate after this step."""
        return step % self.local_steps == 0 or step == self.steps

    def upcoming(self, step: int, round: int) -> Progress | None:
        """Return the progress after ``step`` steps, where nodes may communicate then."""
        if not self.is_communication_step(step):
            return None
        return self.progress(step, round)

    def decisions(self) -> list[tuple[Progress, Action]]:
        """Return what an open-loop schedule decides at every communication step.

        Rounds stay at 0: they depend on draws.
        """
        steps = communication_steps(self.steps, self.local_steps)
        timed = self.timeline
        here = (
            self.progress
            if timed is None
            else partial(timed.progress, local_steps=self.local_steps)
        )
        places = [here(step, round=0) for step in steps]
        return list(zip(places, self.schedule.actions(places), strict=True))

    def plan(
        self,
        progress: Progress,
        feedback: Feedback | None = None,
        excluded: frozenset[Position] = frozenset(),
    ) -> RoundAction | None:
        """Return what is sent at this communication step, or None for silence; a
        pure function.
        """
        action = self.schedule.action(progress, feedback)
        faulty = self.faults.any
        unavailable = self._unavailable(progress) if faulty else NOBODY
        part = self.participation
        resting = NOBODY if part is None else self._resting(part, progress)
        # Faults of links and messages strike gossip only: a global average goes
        # over no links of the graph. Who is away gives it nothing, and takes
        # nothing from it.
        if isinstance(action, Merge):
            return RoundAction(1.0, unavailable=unavailable, resting=resting)
        # Graphs that are drawn whole, such as matchings, take part in a share of
        # the rounds; others take part in all, with a share of their links.
        if action == 0.0 or not self.mixer.is_active(progress.communication_step, action):
            return None
        # A mixing without faults may have been computed before; with them every round
        # has its own.
        excluded |= resting
        if not faulty:
            mixing = self.mixer.mixing(progress.round, action, excluded)
        else:
            mixing = self._faulty_mixing(progress, action, excluded | unavailable)
        return RoundAction(action, mixing, unavailable, resting)

    def drawn(self, step: int) -> Integers | None:
        """Return the ids of the nodes that take step ``step``, from 1; None: all."""
        if self.participation is None:
            return None
        drawn = self.participation.drawn(self.ids, (step - 1) // self.local_steps)
        return self.ids[drawn]

    def _resting(self, part: Participation, progress: Progress) -> frozenset[Position]:
        drawn = part.drawn(self.ids, progress.communication_step)
        return frozenset(map(Position, np.flatnonzero(~drawn).tolist()))

    def _unavailable(self, progress: Progress) -> frozenset[Position]:
        away = np.flatnonzero(self.faults.unavailable(self.ids, progress))
        return frozenset(map(Position, away.tolist()))

    def _faulty_mixing(
        self, progress: Progress, intensity: float, excluded: frozenset[Position]
    ) -> Mixing:
        """Return who receives from whom in a communication step, what goes wrong
        included.
        """
        ids, faults = self.ids, self.faults
        return self.mixer.mixing(
            progress.round,
            intensity,
            excluded,
            down=lambda to, by: faults.down(ids[to], ids[by], progress),
            lost=lambda to, by: faults.lost(ids[to], ids[by], progress),
        )

    def final_merge(self) -> RoundAction | None:
        """Return the global merge that ends the run, after what its last
        communication step sends.

        It is sent where it is asked for, and only there: a merge in the last
        communication step belongs to the algorithm, which may make more of it than
        a mean.
        """
        return RoundAction(1.0, full_model=True) if self.schedule.final_merge else None

    def progress(self, step: int, round: int) -> Progress:
        """Return the progress after ``step`` steps."""
        if self.timeline is not None:
            return self.timeline.progress(step, round, self.local_steps)
        return Progress(step, self.steps, round=round, local_steps=self.local_steps)


@dataclass(frozen=True)
class Size:
    """Logical bytes of one message of a gossip, as it is coded, and of a global
    merge.

    ``full``: of the merge that ends a run, where others send a part of the model
    only.
    """

    gossip: int
    merge: int
    full: int | None = None

    @property
    def last(self) -> int:
        """Bytes of a message of the merge that ends a run."""
        return self.merge if self.full is None else self.full


@dataclass(frozen=True)
class Planned:
    """One communication step of a preview; ``messages`` so far, over all nodes.

    ``merged`` are those of global merges, ``final`` those of the merge that ends
    the run.
    """

    step: int
    intensity: float
    messages: int
    round: int
    is_merge: bool = False
    merged: int = 0
    final: int = 0

    def bytes(self, size: Size) -> int:
        """Return the logical bytes so far."""
        merged = self.merged - self.final
        gossiped = self.messages - self.merged
        return gossiped * size.gossip + merged * size.merge + self.final * size.last


def all_reduce_messages(nodes: int, steps: int) -> int:
    """Return the rows that an all-reduce at every step sends, 2 (N - 1) steps."""
    return 2 * (nodes - 1) * steps


def preview(planner: RoundPlanner) -> Iterator[Planned]:
    """Replay the seed of an open-loop schedule: exactly what the run will send,
    step by step.
    """
    if planner.schedule.closed_loop:
        raise ConfigError(
            f"communication {planner.schedule.rule.name!r} reacts to the run, so it has no "
            "preview; its max_budget bounds what it can spend."
        )
    messages = merged = final = round = 0
    for step in communication_steps(planner.steps, planner.local_steps):
        # What is drawn depends on the round, and the round on what was sent before: there
        # is no way to begin in the middle.
        action = planner.plan(planner.progress(step, round))
        final_merge = planner.final_merge() if step == planner.steps else None
        sent = [a for a in (action, final_merge) if a is not None]
        messages += sum(_messages(a, planner.nodes) for a in sent)
        merged += sum(_messages(a, planner.nodes) for a in sent if a.is_merge)
        final += sum(
            _messages(a, planner.nodes) for a in sent if a.is_merge and a.full_model
        )
        round += len(sent)
        merges = any(a.is_merge for a in sent)
        intensity = action.intensity if action else 0.0
        yield Planned(step, intensity, messages, round, merges, merged, final)


def _messages(action: RoundAction, nodes: int) -> int:
    there = max(1, nodes - len(action.unavailable | action.resting))
    return (
        action.mixing.messages if action.mixing else all_reduce_messages(there, steps=1)
    )


def expected_messages(planner: RoundPlanner) -> float:
    """Return the expected number of messages of a run, its final merge included."""
    return expected_bytes(planner, Size(1, 1))


def expected_bytes(planner: RoundPlanner, size: Size) -> float:
    """Return the expected logical bytes of a run, its final merge included."""
    total = 0.0
    if planner.schedule.final_merge:
        total += all_reduce_messages(planner.nodes, steps=1) * size.last
    # The round is left open: it depends on draws, and an expectation is over all of
    # them.
    for here, action in planner.decisions():
        if isinstance(action, Merge):
            total += _expected_merge(planner, here) * size.merge
        elif action > 0:
            messages = planner.mixer.expected_messages(action)
            if planner.faults.any:
                messages *= _surviving(planner, here)
            if planner.participation is not None:
                drawn = planner.participation.count(planner.nodes)
                # Both ends of a link are drawn, without replacement.
                messages *= drawn * (drawn - 1) / max(1, planner.nodes**2 - planner.nodes)
            total += messages * size.gossip
    return total


def _expected_merge(planner: RoundPlanner, progress: Progress) -> float:
    """Return the expected messages of a merge: 2 (E[n] - 1 + P(n = 0)), n nodes
    being there.
    """
    nodes, drawn = planner.nodes, planner.nodes
    if planner.participation is not None:
        drawn = planner.participation.count(nodes)
    if not planner.faults.any:
        return all_reduce_messages(drawn, steps=1)
    there = planner.faults.presence(planner.ids, progress)
    # Nobody being there costs nothing, where 2 (n - 1) would give -2. Where only some
    # nodes are drawn, each of them stands for the average one.
    nobody = np.prod(1 - there) if drawn == nodes else (1 - there.mean()) ** drawn
    return 2.0 * float(there.sum() * drawn / nodes - 1 + nobody)


def _surviving(planner: RoundPlanner, progress: Progress) -> float:
    """Return the expected share of messages that are sent, whatever goes wrong."""
    there = planner.faults.presence(planner.ids, progress)
    # The links of round 0 stand for those of all rounds: a graph that changes has
    # others, whose chances are alike on average.
    links = planner.mixer.topology.links(0)
    if not len(links):
        return 1.0
    pairs = there[links.senders] * there[links.receivers]
    ids = planner.ids
    ends = ids[links.receivers], ids[links.senders]
    return float((pairs * planner.faults.standing(*ends, progress)).mean())


# --- who takes part ---------------------------------------------------------------


@dataclass(frozen=True)
class Membership:
    """The live nodes, ascending ids, and how often they have changed.

    The p-th live node stands at position p of the topology, which is drawn anew in
    every epoch; draws of data stay keyed by ids.
    """

    live: tuple[NodeId, ...]
    epoch: int = 0

    @staticmethod
    def all_nodes(nodes: int) -> Membership:
        """Return the membership every run begins with."""
        return Membership(tuple(all_ids(nodes)))

    def without(self, lost: Iterable[NodeId]) -> Membership:
        """Return the next epoch, the nodes ``lost`` left out."""
        excluded = set(lost)
        return Membership(
            tuple(n for n in self.live if n not in excluded), self.epoch + 1
        )

    def with_returned(self, returning: Iterable[NodeId]) -> Membership:
        """Return the next epoch, with the nodes ``returning``."""
        return Membership(tuple(sorted({*self.live, *returning})), self.epoch + 1)

    def positions(self, nodes: Iterable[NodeId]) -> frozenset[Position]:
        """Return where nodes stand; those that are not live stand nowhere."""
        wanted = set(nodes)
        return frozenset(
            Position(p) for p, node in enumerate(self.live) if node in wanted
        )


def next_planner(
    planner: RoundPlanner, weights: object, members: Membership
) -> RoundPlanner:
    """Return the planner of an epoch: the same topology and schedule on the live
    nodes.

    Args:
        planner: What is sent when, among all nodes.
        weights: The weights as configured.
        members: The nodes of the epoch.
    """
    if members.epoch == 0:
        return planner
    old = planner.mixer.topology
    try:
        topology = Topology(
            build("topology", old.rule), len(members.live), old.seed, members.epoch
        )
    except ConfigError as error:
        raise ConfigError(
            f"the {len(members.live)} nodes that are left cannot form the topology again "
            f"({str(error).rstrip('.')}); use engine.on_failure=restart."
        ) from error
    # What was solved for before the run, such as the factor of a budget, stays in
    # the schedule of every epoch: the budget is that of the run, not of those who
    # are left.
    return replace(planner, mixer=Mixer.make(topology, weights), live=members.live)
