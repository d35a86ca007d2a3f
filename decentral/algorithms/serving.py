"""Asynchronous algorithms in which one node serves the others: the centralized
baselines.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt, Le

from decentral.algorithms.asynchronous import WORLD
from decentral.algorithms.node import Node, NodeEvent
from decentral.registry import Count, NonNegative, Positive, plugin
from decentral.topology.labels import NodeId

#: The node that serves the others.
SERVER = NodeId(0)
_SERVED: dict[str, Any] = {
    **WORLD,
    "topology": "star",
    "local_steps": 10,
    "communication": "constant",
}


@plugin(
    "algorithm",
    time="events",
    server=True,
    guarantees=("contracts",),
    defaults=_SERVED,
)
def fedasync(
    node: Node,
    event: NodeEvent,
    *,
    alpha: Annotated[float, Gt(0), Le(1)] = 0.6,
    power: NonNegative = 0.5,
) -> None:
    """FedAsync: node 0 serves; x <- (1 - a) x + a x_i for each model that comes, a =
    alpha (1 + staleness)^-p.

    A node trains ``local_steps`` steps from the server's model, sends its own, and
    goes on with what the server has then. The server holds no data. (Xie, Koyejo &
    Gupta, "Asynchronous federated optimization", 2019.)

    Args:
        node: The node.
        event: What has happened to it.
        alpha: Share of a model that is not stale.
        power: p: how fast the share falls with staleness, in changes of the server's
            model since the node got it.
    """
    if _serve_client(node, event):
        return
    numbers = node.numbers
    if event.kind == "start":
        numbers["time"] = 0.0
        return
    staleness = numbers["time"] - event.message.numbers["time"]
    share = alpha * (1.0 + staleness) ** -power
    node.mix(1.0 - share, {event.sender: (share, event.message)})
    numbers["time"] += 1.0
    node.send([event.sender], waits="all", time=numbers["time"])


@plugin(
    "algorithm",
    time="events",
    server=True,
    guarantees=("contracts",),
    defaults=_SERVED,
)
def fedbuff(
    node: Node,
    event: NodeEvent,
    *,
    buffer: Count = 4,
    server_lr: Positive = 1.0,
    power: NonNegative = 0.5,
) -> None:
    """FedBuff: node 0 serves; it adds the mean of the first K updates that come, then
    begins anew.

    x <- x + server_lr (1/K) sum_i (x_i - x of which i began) / (1 + staleness_i)^p.
    A node trains ``local_steps`` steps from the server's model, sends its own, and
    goes on with what the server has then. (Nguyen et al., "Federated learning with
    buffered asynchronous aggregation", AISTATS 2022.)

    Args:
        node: The node.
        event: What has happened to it.
        buffer: K: updates that make a step of the server.
        server_lr: Length of the server's step.
        power: How fast the weight of an update falls with its staleness.
    """
    if _serve_client(node, event):
        return
    numbers = node.numbers
    if event.kind == "start":
        numbers |= {"time": 0.0, "held": 0.0}
        # What each client began with, until its update comes.
        node.mailbox.update({one: node.keep() for one in node.neighbours})
        return
    # The update waits as two models, the one it led to and the one it began with.
    place = node.nodes + 2 * int(numbers["held"])
    node.mailbox[place] = event.message
    node.mailbox[place + 1] = node.mailbox[event.sender]
    numbers["held"] += 1.0
    if numbers["held"] == buffer:
        for held in range(node.nodes, node.nodes + 2 * buffer, 2):
            after, before = node.mailbox.pop(held), node.mailbox.pop(held + 1)
            staleness = numbers["time"] - after.numbers["time"]
            step = server_lr / buffer * (1.0 + staleness) ** -power
            node.add(after, step)
            node.add(before, -step)
        numbers |= {"time": numbers["time"] + 1.0, "held": 0.0}
    node.mailbox[event.sender] = node.keep()
    node.send([event.sender], waits="all", time=numbers["time"])


def _serve_client(node: Node, event: NodeEvent) -> bool:
    """Do what a client does; return whether the node is one.

    A client waits for the server's answer before it goes on.
    """
    if node.id == SERVER:
        return False
    if event.kind == "start":
        node.numbers["time"] = 0.0
        node.compute()
    elif event.kind == "gradient":
        node.update()
        if node.communicates():
            node.send([SERVER], time=node.numbers["time"])
        else:
            node.compute()
    else:
        node.numbers["time"] = event.message.numbers["time"]
        node.mix(0.0, {event.sender: (1.0, event.message)})
        node.compute()
    return True
