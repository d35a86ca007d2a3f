"""The hosted rows as they communicate: what is sent when, mixed, merged and counted.

A run trains them in a block (`decentral.loop.block`), and a loop of one's own by
itself (`decentral.Gossip`): rows meet here in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from decentral.exchange.base import CommunicationStats, Exchange
from decentral.loop.channels import Channels
from decentral.loop.feedback import Sketch, measure_after, refresh_feedback
from decentral.loop.health import Announce, Health, finite_rows
from decentral.loop.setup import CommunicationSetup
from decentral.merging.base import merge_weights
from decentral.mixing.base import Mixing
from decentral.network.planning import (
    NOBODY,
    Membership,
    RoundAction,
    RoundPlanner,
    next_planner,
)
from decentral.schedules.progress import Feedback, Progress
from decentral.topology.labels import NodeId, RowIndex

#: What decides what is sent; of a run that trains, all its parts.
S = TypeVar("S", bound=CommunicationSetup)


class HostedRows(Generic[S]):
    """The hosted rows [n, P], with what is known of the others and what was sent.

    ``hosted`` are the ids of the rows' nodes; ``exchange.hosted`` their positions
    among the live.
    """

    channels: Channels
    grads: Tensor  # [n, P]

    def __init__(
        self,
        setup: S,
        exchange: Exchange,
        announce: Announce,
        members: Membership | None,
        first: Callable[[list[NodeId]], Tensor],
    ) -> None:
        """Put every hosted node at its first row.

        Args:
            setup: What is the same on every worker.
            exchange: Through which rows meet.
            announce: What tells the engine of an event.
            members: The nodes that are live; None: all.
            first: Returns the first rows of nodes, [n, P].
        """
        config = setup.config
        self.setup, self.exchange, self.announce = setup, exchange, announce
        self.members = members or Membership.all_nodes(config.nodes)
        self.hosted = [self.members.live[place] for place in exchange.hosted]
        self.planner = setup.planner and next_planner(
            setup.planner, setup.weights, self.members
        )
        self.rows = first(self.hosted).to(setup.device)
        self.integers = {
            name: torch.stack([value] * len(self.hosted)).to(setup.device)
            for name, value in setup.layout.integers.items()
        }
        self.stand_at(0, 0)
        self.losses = self.rows.new_zeros(len(self.hosted))
        self.stats = CommunicationStats()
        self.clock = setup.clock()
        self.intensity = 0.0
        self.feedback: Feedback | None = None
        self.resting: set[NodeId] = set()  # at a merge: who gives it nothing
        #: Looks at the models before the next global merge, once.
        self.before_merge: Callable[[], None] | None = None
        stop, live = config.on_nonfinite == "stop", self.members.live
        self.health = Health(exchange, self.hosted, live, stop, announce, setup.users)

    def evaluating(self) -> AbstractContextManager[None]:
        """Let the rows be, for a while, what is to be evaluated, merged and kept."""
        return nullcontext()

    # --- progress -----------------------------------------------------------------

    def stand_at(self, step: int, round: int) -> None:
        """Stand where ``step`` steps are done and something was sent in ``round``
        rounds.
        """
        self.step, self.round = step, round
        timeline, config = self.setup.timeline, self.setup.config
        self.progress = timeline.progress(step, round, config.local_steps)
        self.batch_size = timeline.size(step)  # samples per node of the next step

    def _finish_round(self) -> None:
        """Count the round in which something was just sent."""
        self.round += 1
        self.progress = replace(self.progress, round=self.round)

    @property
    def samples(self) -> int:
        """Samples of each node so far."""
        return self.setup.timeline.samples[self.step]

    def decide(self) -> RoundAction | None:
        """Return what is sent after the next step."""
        planner = self.planner
        upcoming = planner.upcoming(self.step + 1, self.round) if planner else None
        if planner is None or upcoming is None:
            return None
        if planner.schedule.closed_loop:
            self.feedback = refresh_feedback(self, planner)
        action = self._plan(planner, upcoming)
        self.intensity = action.intensity if action else 0.0
        return action

    def _plan(self, planner: RoundPlanner, upcoming: Progress) -> RoundAction | None:
        quarantined = self.health.quarantined
        excluded = self.members.positions(quarantined) if quarantined else NOBODY
        return planner.plan(upcoming, self.feedback, excluded)

    def check(self) -> None:
        """Find nodes whose rows are not finite, before anybody looks at them."""
        self._notice(finite_rows(self.rows), self.step)
        self.health.agree()

    def finish_step(self) -> None:
        """Count the step that was just done."""
        self.stand_at(self.step + 1, self.round)
        if self.planner is not None and self.planner.schedule.own_feedback:
            measure_after(self, self.planner)

    # --- what an algorithm acts on ---------------------------------------------------

    @property
    def sent(self) -> Tensor:
        """The columns of the rows that are mixed."""
        return self.channels.model

    @property
    def state(self) -> dict[str, Tensor]:
        """What the algorithm keeps."""
        return self.channels.state

    @property
    def nodes(self) -> int:
        """How many nodes take part, on all workers."""
        return self.exchange.nodes

    def degree(self, action: RoundAction) -> Tensor:
        """Return how many others every hosted node receives from, [n, 1]."""
        assert action.mixing is not None
        degree = np.diff(action.mixing.indptr)[list(self.exchange.hosted)] - 1
        return torch.from_numpy(degree).to(self.rows)[:, None]

    def combine(
        self,
        action: RoundAction | None,
        part: slice | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        """Gossip or merge as ``action`` says, or ``part`` of the columns; ``ahead``
        of a `wait`.

        Quarantined nodes are kept out before they poison others.
        """
        if action is None:
            return
        if self.health.update(self.rows, self.step + 1):
            self._zero_quarantined()
            if action.mixing is not None and self.planner is not None:
                upcoming = self.planner.progress(self.step + 1, self.round)
                action = self._plan(self.planner, upcoming) or action
                self.channels.forget()
        since_s = self.clock.ready_s
        if action.mixing is None:
            self._merge(action, None if action.full_model else part)
        else:
            self._gossip(action.mixing, part)
        if ahead:
            self.clock.postpone(since_s)

    def wait(self) -> None:
        """Let simulated time pass until what was combined ahead has arrived."""
        self.clock.wait()

    def _gossip(self, mixing: Mixing, part: slice | None) -> None:
        self.stats.wire_bytes += self.channels.gossip(mixing, self.progress, part)
        size = self.setup.size.gossip
        self.stats.gossip(mixing.messages, size)
        if self.setup.network:
            self.clock.gossip(mixing, size, self.members.live)
        self._finish_round()

    def _merge(self, action: RoundAction, part: slice | None) -> None:
        """Let all who are there take the average of those who count."""
        live = self.members.live
        away = {live[place] for place in action.unavailable}
        # Nodes that rest give nothing; they take what is there when they are drawn.
        self.resting = {live[place] for place in action.resting} - away
        if self.before_merge is not None:
            looking, self.before_merge = self.before_merge, None
            looking()
        out = away | self.resting
        there = [node for node in self.health.healthy if node not in out]
        size = self.setup.size.last if action.full_model else self.setup.size.merge
        if there:
            weights = self.merge_shares(without=out | self.list_uncounted())
            here = [RowIndex(i) for i, n in enumerate(self.hosted) if n not in away]
            with self.evaluating():
                self.stats.wire_bytes += self.channels.merge(
                    weights, self.progress, here, part
                )
            self.clock.average(there, size, later=[*self.resting])
        self.resting = set()  # all count again, since all have the same model
        self.stats.average(max(1, len(there)), size)
        self._finish_round()
        # The last action comes after its step is counted, any other before.
        step = self.step if action.full_model else self.step + 1
        self.announce("merge", {"step": step, "nodes": len(there)})

    # --- health -------------------------------------------------------------------

    @property
    def quarantined(self) -> frozenset[NodeId]:
        """The ids of quarantined nodes."""
        return self.health.quarantined

    def good(self) -> list[NodeId]:
        """Return the ids of nodes whose models count: they take part, are not bad,
        and do not rest.

        All workers ask at the same time.
        """
        out = self.setup.attackers.nodes | self.list_uncounted() | self.resting
        return [node for node in self.health.healthy if node not in out]

    def list_uncounted(self) -> set[NodeId]:
        """Return the ids of nodes that the algorithm leaves out for now; all
        workers ask.
        """
        name, server = self.setup.traits.counts, self.setup.traits.server
        if name is None:  # what clients of a server hold is on its way to it
            return {*self.members.live[1:]} if server else set()
        counts = self.exchange.gather(self.state[name][:, 0])
        return {
            self.members.live[int(place)]
            for place in torch.nonzero(counts == 0).flatten()
        }

    def healthy_rows(self) -> list[RowIndex]:
        """Return the indices of hosted rows whose nodes take part."""
        out = self.health.quarantined.union(self.health.suspected)
        return [RowIndex(i) for i, node in enumerate(self.hosted) if node not in out]

    def _notice(self, finite: Tensor, step: int | None = None) -> bool:
        """Quarantine hosted nodes that are not finite; return whether there are new
        ones.
        """
        if bool(finite.all()):
            return False
        found = self.health.notice(finite, self.step + 1 if step is None else step)
        if found:
            self._zero_quarantined()
        return found

    def _zero_quarantined(self) -> None:
        """Hold what quarantined nodes could share at zero, so that no weight of 0
        meets a NaN.
        """
        if not self.health.quarantined and not self.health.suspected:
            return
        for index, node in enumerate(self.hosted):
            if not self.health.is_healthy(node):
                self.zero_row(RowIndex(index))

    def zero_row(self, index: RowIndex) -> None:
        """Put all that is kept of a node to where nothing in it is not finite."""
        self.rows[index] = 0.0
        self.channels.zero_state(index)

    def merge_shares(self, without: Iterable[NodeId] = ()) -> Tensor:
        """Return merge weights of hosted rows, float64 [n]; 0 for nodes ``without``."""
        held = self.setup.samples_held[list(self.members.live)]
        out = self.members.positions({*self.quarantined, *without})
        weights = merge_weights(self.setup.merge, held, out)
        return weights[self.exchange.hosted.start : self.exchange.hosted.stop]

    # --- feedback -----------------------------------------------------------------

    @cached_property
    def sketch(self) -> Sketch:
        """What feedback sees of a row; it takes four times the memory of one."""
        return Sketch(self.setup.layout, self.setup.config.seed, self.setup.device)
