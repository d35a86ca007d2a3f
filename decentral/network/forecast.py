"""What a run will take, before anything is trained: its conversation, replayed on a clock."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.network import Conversation, all_reduce_messages, preview
from decentral.network.clock import Clock


@dataclass(frozen=True)
class Forecast:
    """Seconds until the last node is done, and the logical bytes of all nodes together."""

    seconds: float
    bytes: float
    rounds: int


def forecast(talk: Conversation, clock: Clock, size: float) -> Forecast:
    """Replay a conversation whose messages have ``size`` bytes; ``clock`` moves on.

    Exactly what a run with the same seed shows as ``time/simulated_s``, if its batch size stays
    and nothing travels under its steps.

    Args:
        talk: What is sent when.
        clock: The clock of the run; it moves on.
        size: Bytes of a message.
    """
    step = round = messages = 0
    for planned in preview(talk):
        for earlier in range(step, planned.step):
            clock.work(earlier)
        _speak(talk, clock, planned.step, round, size)
        step, round, messages = planned.step, planned.round, planned.messages
    return Forecast(clock.now_s(range(talk.nodes)), messages * size, round)


def _speak(talk: Conversation, clock: Clock, step: int, round: int, size: float) -> None:
    """Send what a conversation says at one slot."""
    act = talk.act(talk.progress(step, round))
    finale = talk.finale() if step == talk.steps else None
    for each in (act, finale):
        if each is not None and each.mixing is not None:
            clock.gossip(each.mixing, size, range(talk.nodes))
        elif each is not None:
            clock.average(range(talk.nodes), size)


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
        clock.average(range(nodes), size)
    return Forecast(clock.now_s(range(nodes)), all_reduce_messages(nodes, steps) * size, steps)
