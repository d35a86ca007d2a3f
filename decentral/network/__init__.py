"""The conversation of a run: what is sent in every slot, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from decentral.errors import ConfigError
from decentral.mixing import Mixer, Mixing
from decentral.schedules import Feedback, Progress, slots
from decentral.schedules.communication import CommunicationSchedule, Merge
from decentral.schedules.pace import Pace


@dataclass(frozen=True)
class Act:
    """What happens in one slot: gossip with a mixing, or a global merge."""

    intensity: float
    mixing: Mixing | None = None

    @property
    def is_merge(self) -> bool:
        """Whether this is a global merge."""
        return self.mixing is None


@dataclass(frozen=True)
class Conversation:
    """Topology, weights and schedule together: decides what is sent at a slot."""

    mixer: Mixer
    schedule: CommunicationSchedule
    steps: int
    local_steps: int
    pace: Pace | None = None  # None: every step takes the same

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return self.mixer.topology.nodes

    def is_slot(self, step: int) -> bool:
        """Whether nodes may talk after this step."""
        return step % self.local_steps == 0 or step == self.steps

    def act(
        self,
        progress: Progress,
        feedback: Feedback | None = None,
        absent: frozenset[int] = frozenset(),
    ) -> Act | None:
        """Return what is sent at this slot, or None for silence; a pure function."""
        action = self.schedule.action(progress, feedback)
        if isinstance(action, Merge):
            return Act(1.0)
        if action == 0.0 or not self.mixer.speaks(progress.slot, action):
            return None
        return Act(action, self.mixer.mixing(progress.round, action, absent))

    def finale(self, last: Act | None) -> Act | None:
        """Return the global merge that ends the run, after ``last``, what the last slot sends."""
        merged = last is not None and last.is_merge
        return Act(1.0) if self.schedule.final_merge and not merged else None

    def progress(self, step: int, round: int) -> Progress:
        """Return the progress after ``step`` steps."""
        if self.pace is not None:
            return self.pace.progress(step, round, self.local_steps)
        return Progress(step, self.steps, round=round, local_steps=self.local_steps)


@dataclass(frozen=True)
class Size:
    """Logical bytes of one message of a gossip, as it is coded, and of a global merge."""

    gossip: int
    merge: int


@dataclass(frozen=True)
class Planned:
    """One slot of a preview; ``messages`` so far, over all nodes, ``merged`` those of merges."""

    step: int
    intensity: float
    messages: int
    round: int
    is_merge: bool = False
    merged: int = 0

    def bytes(self, size: Size) -> int:
        """Return the logical bytes so far."""
        return (self.messages - self.merged) * size.gossip + self.merged * size.merge


def all_reduce_messages(nodes: int, steps: int) -> int:
    """Return the rows that an all-reduce at every step sends, 2 (N - 1) steps."""
    return 2 * (nodes - 1) * steps


def preview(conversation: Conversation) -> Iterator[Planned]:
    """Replay the seed of an open-loop schedule: exactly what the run will send, slot by slot."""
    if conversation.schedule.closed_loop:
        raise ConfigError(
            f"communication {conversation.schedule.rule.name!r} reacts to the run, so it has no "
            "preview; its max_budget bounds what it can spend."
        )
    messages = merged = round = 0
    for step in slots(conversation.steps, conversation.local_steps):
        act = conversation.act(conversation.progress(step, round))
        finale = conversation.finale(act) if step == conversation.steps else None
        sent = [a for a in (act, finale) if a is not None]
        messages += sum(_messages(a, conversation.nodes) for a in sent)
        merged += sum(_messages(a, conversation.nodes) for a in sent if a.is_merge)
        round += len(sent)
        intensity = act.intensity if act else 0.0
        yield Planned(step, intensity, messages, round, any(a.is_merge for a in sent), merged)


def _messages(act: Act, nodes: int) -> int:
    return act.mixing.messages if act.mixing else all_reduce_messages(nodes, steps=1)


def expected_messages(conversation: Conversation) -> float:
    """Return the expected number of messages of a run, its final merge included."""
    return expected_bytes(conversation, Size(1, 1))


def expected_bytes(conversation: Conversation, size: Size) -> float:
    """Return the expected logical bytes of a run, its final merge included."""
    merge = all_reduce_messages(conversation.nodes, steps=1) * size.merge
    action, total = None, 0.0
    for step in slots(conversation.steps, conversation.local_steps):
        action = conversation.schedule.action(conversation.progress(step, round=0))
        if isinstance(action, Merge):
            total += merge
        elif action > 0:
            total += conversation.mixer.expected_messages(action) * size.gossip
    once_more = conversation.schedule.final_merge and not isinstance(action, Merge)
    return total + merge if once_more else total
