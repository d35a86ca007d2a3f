"""Who is hosted where, and what changes when members are lost or return."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from decentral.network.membership import Membership, reformed
from decentral.network.planning import RoundPlanner
from decentral.run.checkpoint import Checkpoint

State = dict[str, Tensor]


def blocks_of(nodes: int, workers: int) -> tuple[range, ...]:
    """Divide positions into contiguous blocks, the first ones larger by one where they must be."""
    sizes = [nodes // workers + (k < nodes % workers) for k in range(workers)]
    return tuple(range(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))


def label(rank: int, nodes: Sequence[int]) -> str:
    """Return how a worker is called.

    >>> label(3, [12, 13, 14, 15])
    'worker 3: nodes 12-15'
    """
    breaks = [i for i in range(1, len(nodes)) if nodes[i] != nodes[i - 1] + 1]
    spans = [(nodes[a], nodes[b - 1]) for a, b in pairwise([0, *breaks, len(nodes)])]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"worker {rank}: node{'s' if len(nodes) > 1 else ''} {text}"


def sources(
    planner: RoundPlanner | None, weights: object, members: Membership, old: Membership
) -> dict[int, list[int]]:
    """Return whom every joiner starts from: its neighbours that were there, or everybody.

    Args:
        planner: What is sent when; None: nothing.
        weights: The weights as configured.
        members: The nodes of the new epoch.
        old: Those of the one before.
    """
    joiners = sorted(set(members.live) - set(old.live))
    received: dict[int, set[int]] = {node: set() for node in joiners}
    if planner is not None:
        topology = reformed(planner, weights, members).mixer.topology
        for round in range(topology.period):
            links = topology.links(round)
            for receiver, sender in zip(links.receivers, links.senders, strict=True):
                node, neighbour = members.live[int(receiver)], members.live[int(sender)]
                if node in received and neighbour in old.live:
                    received[node].add(neighbour)
    return {node: sorted(found) or list(old.live) for node, found in received.items()}


def mean_state(states: Sequence[State]) -> State:
    """Return the average of nodes' rows and optimizer states; whole numbers as the first has them.

    x = (1/k) sum_i x_i, for the row and every tensor of the optimizer alike, ``step`` included.
    """
    return {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def moved(checkpoint: Checkpoint, members: Membership, joined: dict[int, list[int]]) -> Checkpoint:
    """Return a checkpoint of the same step for other members.

    Args:
        checkpoint: The checkpoint of the epoch before.
        members: The nodes of the new one.
        joined: Whom every joiner starts from.
    """
    nodes = {node: checkpoint.nodes[node] for node in members.live if node not in joined}
    for node, neighbours in joined.items():
        nodes[node] = mean_state([checkpoint.nodes[n] for n in neighbours])
    counters = {**checkpoint.counters, "epoch": members.epoch}
    return Checkpoint(checkpoint.step, members.live, nodes, counters)
