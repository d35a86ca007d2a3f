"""Workers as the process that coordinates them sees them, and which nodes they
host.

Nothing here knows what has started them. What changes when members are lost or
return is said in terms of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from decentral.merging.calibrate import unite
from decentral.network.planning import Membership, RoundPlanner, next_planner
from decentral.run.checkpoint import Checkpoint
from decentral.topology.labels import NodeId

#: Seconds in which a worker must exist and answer for the first time, and again
#: when it begins.
START_S = 60.0

#: What a worker says has happened: ``what``, ``rank``, and details.
Report = Mapping[str, Any]


#: How the loss of a process reads, on a host that goes on.
PROCESS_DIED = "its process died"


class WorkersLost(Exception):
    """Workers that are gone, by rank, and why; none: contact between living ones
    was lost.
    """

    def __init__(self, ranks: Sequence[int], cause: str, step: int = 0) -> None:
        """Say who, why, and after which step."""
        super().__init__(cause)
        self.ranks, self.cause, self.step = sorted(ranks), cause, step

    @property
    def process(self) -> bool:
        """Whether only a process was lost, and its host goes on."""
        return self.cause == PROCESS_DIED

    @property
    def who(self) -> str:
        """Who is gone, in words."""
        return (
            ", ".join(f"worker {rank}" for rank in self.ranks)
            or "contact between workers"
        )


class Workers(Protocol):
    """The workers of one attempt, by rank; every method raises WorkersLost for
    those that are gone.

    ``steps`` are those that each has done; -1: it has not begun.
    """

    steps: list[int]

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        ...

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        """Return what one worker answers."""
        ...

    def ask_all(self, method: str, *given: Any, timeout_s: float) -> list[Any]:
        """Return what every worker answers, in order."""
        ...

    def ask_each(
        self, method: str, given: Sequence[tuple[Any, ...]], timeout_s: float
    ) -> list[Any]:
        """Return what every worker answers to its own question, in order.

        Args:
            method: Name of the worker's method.
            given: Arguments for each worker.
            timeout_s: Seconds to wait for all answers.
        """
        ...

    def begin(self, jobs: Iterable[Any]) -> None:
        """Give every worker its job; from now on there are reports."""
        ...

    def reports(self) -> Iterator[Report]:
        """Yield what has happened since the last call, waiting a moment for the
        first of it.
        """
        ...


# --- which nodes they host --------------------------------------------------------


State = dict[str, Tensor]


def blocks_of(nodes: int, workers: int) -> tuple[range, ...]:
    """Divide positions into contiguous blocks, the first ones larger by one where
    they must be.
    """
    sizes = [nodes // workers + (k < nodes % workers) for k in range(workers)]
    return tuple(range(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))


def label(rank: int, nodes: Sequence[NodeId]) -> str:
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
) -> dict[NodeId, list[NodeId]]:
    """Return whom every joiner starts from: its neighbours that were there, or
    everybody.

    Args:
        planner: What is sent when; None: nothing.
        weights: The weights as configured.
        members: The nodes of the new epoch.
        old: Those of the one before.
    """
    joiners = sorted(set(members.live) - set(old.live))
    received: dict[NodeId, set[NodeId]] = {node: set() for node in joiners}
    if planner is not None:
        topology = next_planner(planner, weights, members).mixer.topology
        # A graph that changes gives other neighbours in every round: all of them
        # count.
        for round in range(topology.period):
            links = topology.links(round)
            for receiver, sender in zip(links.receivers, links.senders, strict=True):
                node, neighbour = members.live[int(receiver)], members.live[int(sender)]
                if node in received and neighbour in old.live:
                    received[node].add(neighbour)
    return {node: sorted(found) or list(old.live) for node, found in received.items()}


def mean_state(states: Sequence[State]) -> State:
    """Return the average of nodes' rows and optimizer states; whole numbers as the
    first has them.

    x = (1/k) sum_i x_i, for the row and every tensor of the optimizer alike,
    ``step`` included. Buffers beside the rows are united as in a merged model.
    """
    found: State = {}
    for name, value in states[0].items():
        if name.startswith("integer/"):
            found[name] = unite(torch.stack([state[name] for state in states]))[0]
        elif value.is_floating_point():
            # In float64: second moments of Adam differ by many orders of magnitude.
            mean = torch.stack([state[name].double() for state in states]).mean(0)
            found[name] = mean.to(value.dtype)
        else:
            found[name] = value
    return found


def reassign(
    checkpoint: Checkpoint, members: Membership, joined: dict[NodeId, list[NodeId]]
) -> Checkpoint:
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
