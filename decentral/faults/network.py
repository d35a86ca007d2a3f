"""Faults between nodes, and of nodes, that a simulation plays: lost messages,
outages, churn.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.registry import Node, Share, plugin

Integers = NDArray[np.int64]


def bad(
    what: str, share: float, length: float, step: int, seed: int, *who: Integers
) -> NDArray[np.bool_]:
    """Return who is in the bad state: a ``share`` of all communication steps,
    ``length`` at a time.

    A chain enters the bad state with probability e = share / ((1 - share) length)
    and leaves it with 1 / length. One uniform draw u per step decides: u < e is bad
    and u >= 1 - 1 / length good whatever was before; else the step before counts.
    So the state is found by looking back.
    """
    if share >= 1:
        return np.ones(len(who[0]), bool)
    if length * (1 - share) < 1 - 1e-9:
        raise ConfigError(
            f"{what}: stretches of {length:g} communication steps cannot take {share:.0%} of the "
            f"time; let length be at least {1 / (1 - share):.3g}."
        )
    enter = share / ((1 - share) * length)
    found, open_ = np.zeros(len(who[0]), bool), np.arange(len(who[0]))
    # Backwards until a draw decides by itself, a few steps as a rule, some at a
    # time: nothing has to be kept from step to step, and a resumed run needs no
    # state of the chain.
    together = int(min(2 * length, 64)) + 1
    for last in range(step, 0, -together):
        earlier = np.arange(last, max(last - together, 0), -1)[:, None]
        draws = rng.uniform(seed, "chain", earlier, *(each[open_] for each in who))
        enters = draws < enter
        decides = enters | (draws >= 1 - 1 / length)
        first = decides.argmax(axis=0), np.arange(len(open_))
        found[open_] = enters[first]
        open_ = open_[~decides[first]]
        if not len(open_):
            return found
    # The chain begins in its stationary state.
    found[open_] = (
        rng.uniform(seed, "chain/start", *(each[open_] for each in who)) < share
    )
    return found


@plugin("fault", strikes="messages")
def lost(
    receivers: NDArray[np.int64],
    senders: NDArray[np.int64],
    step: int,
    seed: int,
    *,
    share: Share = 0.1,
    both: bool = False,
) -> NDArray[np.bool_]:
    """Lose each message with probability ``share``; with ``both``, two of a link go
    together.

    Args:
        receivers: Receiving nodes of the messages, [m].
        senders: Sending nodes of the messages, [m].
        step: Communication step, counted from 0.
        seed: Seed of this fault.
        share: Probability that a message is lost.
        both: Whether both directions of a link fail together.
    """
    return rng.uniform(seed, "lost", step, receivers, senders) < share


@plugin("fault", strikes="messages")
def bursts(
    receivers: NDArray[np.int64],
    senders: NDArray[np.int64],
    step: int,
    seed: int,
    *,
    share: Annotated[float, Ge(0), Lt(1)] = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
    both: bool = False,
) -> NDArray[np.bool_]:
    """Lose a ``share`` of a link's messages, ``length`` communication steps in a
    row on average.

    (Gilbert, "Capacity of a burst-noise channel", 1960; Elliott, 1963, with a good
    state that loses nothing and a bad one that loses all.)

    Args:
        receivers: Receiving nodes of the messages, [m].
        senders: Sending nodes of the messages, [m].
        step: Communication step, counted from 0.
        seed: Seed of this fault.
        share: Share of a link's messages that are lost.
        length: Communication steps that a loss lasts, on average.
        both: Whether both directions of a link fail together.
    """
    return bad("faults: bursts", share, length, step, seed, receivers, senders)


@plugin("fault", strikes="links")
def outages(
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    step: int,
    seed: int,
    *,
    share: Annotated[float, Ge(0), Lt(1)] = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
) -> NDArray[np.bool_]:
    """Let links be down a ``share`` of the time, ``length`` communication steps on
    average.

    Both ends know, and weigh the links that are left as if there were no others.

    Args:
        low: Lower node of each link, [m].
        high: Higher node of each link, [m].
        step: Communication step, counted from 0.
        seed: Seed of this fault.
        share: Share of the time that a link is down.
        length: Communication steps that it is down, on average.
    """
    return bad("faults: outages", share, length, step, seed, low, high)


@plugin("fault", strikes="nodes")
def churn(
    ids: NDArray[np.int64],
    step: int,
    seed: int,
    *,
    share: Share = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
    nodes: list[Node] | None = None,
) -> NDArray[np.bool_]:
    """Let nodes be away a ``share`` of the time, for ``length`` communication steps
    on average.

    Who is away trains on alone, and comes back with what it has. ``nodes`` are
    those that may leave (none: all);
    ``churn(nodes=[3], share=1, start=40%, stop=60%)`` takes one away once.

    Args:
        ids: Numbers of the nodes, [n].
        step: Communication step, counted from 0.
        seed: Seed of this fault.
        share: Share of the time that a node is away.
        length: Communication steps that it stays away, on average.
        nodes: Nodes that may leave; none: all.
    """
    away = bad("faults: churn", share, length, step, seed, ids)
    return away if nodes is None else away & np.isin(ids, nodes)
