"""Asynchronous algorithms in which one node serves the others: the centralized
baselines.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt, Le

from decentral.algorithms.asynchronous import WORLD
from decentral.algorithms.node import Node, NodeEvent
from decentral.registry import Count, NonNegative, Positive, Share, plugin
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
    """FedAsync: node 0 serves; x <- (1 - a) x + a x_i for each model that comes,
    a = alpha (1 + staleness)^-p.

    A node trains ``local_steps`` steps from the server's model, sends its own, and
    goes on with what the server has then. The server holds no data. (Xie, Koyejo &
    Gupta, "Asynchronous federated optimization", 2019.)

    Args:
        node: The node.
        event: What has happened to it.
        alpha: Share of a model that is not stale.
        power: p: how fast the share falls with staleness, in changes of the
            server's model since the node got it.
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
    """FedBuff: node 0 serves; it adds the mean of the first K updates that come,
    then begins anew.

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


@plugin(
    "algorithm",
    time="events",
    server=True,
    guarantees=("contracts",),
    defaults=_SERVED,
)
def async_diloco(
    node: Node,
    event: NodeEvent,
    *,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.9,
    buffer: Count = 4,
    early: Share = 0.0,
    by_speed: bool = True,
) -> None:
    """Asynchronous DiLoCo: node 0 serves, with delayed Nesterov momentum over the
    pseudo-gradients D_i = (what node i began with) - x_i.

    With each that comes x <- x - a (c b m + D_i / K); every K-th time first m <- b
    m + (1/K) sum D, then x <- x - a ((1 - c K + c) b m + D_i / K). A node trains
    H_i steps from the server's model, ``local_steps`` times its speed over the
    fastest one's (DyLU), so that all come back equally often. (Liu, Chhaparia,
    Douillard, Kale, Rusu, Shen, Szlam & Ranzato, "Asynchronous local-SGD training
    for language modeling", 2024, Algorithms 3 and 4.)

    Args:
        node: The node.
        event: What has happened to it.
        outer_lr: Learning rate of the outer step, a.
        outer_momentum: Momentum of the outer step, b.
        buffer: K: pseudo-gradients from one change of the momentum to the next.
        early: c K: the share of the momentum that is spread over the steps in
            between; 0: all of it is applied when it changes.
        by_speed: Whether slow nodes take fewer steps; else all take
            ``local_steps``.
    """
    if _serve_client(node, event, counts=True):
        return
    numbers, mailbox = node.numbers, node.mailbox
    momentum, gathered = node.nodes, node.nodes + 1
    if event.kind == "start":
        numbers |= {"time": 0.0, "held": 0.0}
        mailbox.update({one: node.keep() for one in node.neighbours})
        mailbox |= {momentum: node.sum([]), gathered: node.sum([])}
        return
    began, ended, share = mailbox[event.sender], event.message, early / buffer
    numbers["held"] += 1.0
    mailbox[gathered] = node.sum([(1.0, mailbox[gathered]), (1.0, began), (-1.0, ended)])
    if numbers["held"] == buffer:
        old, new = mailbox[momentum], mailbox[gathered]
        mailbox[momentum] = node.sum([(outer_momentum, old), (1.0 / buffer, new)])
        mailbox[gathered] = node.sum([])
        numbers["held"], share = 0.0, 1.0 - early + share
    node.add(mailbox[momentum], -outer_lr * share * outer_momentum)
    node.add(began, -outer_lr / buffer)
    node.add(ended, outer_lr / buffer)
    numbers["time"] += 1.0
    mailbox[event.sender] = node.keep()
    quota = _quota(node, event.sender, ended.numbers["step_s"]) if by_speed else 0
    node.send([event.sender], waits="all", time=numbers["time"], quota=float(quota))


def _quota(server: Node, client: NodeId, step_s: float) -> int:
    """Return the steps of a client's next turn: fewer than ``local_steps`` as its
    steps take longer than those of the fastest that has been heard of.
    """
    server.numbers[f"step_s/{client}"] = step_s
    known = [v for name, v in server.numbers.items() if name.startswith("step_s/")]
    return max(1, int(server.local_steps * min(known) / step_s))


def _serve_client(node: Node, event: NodeEvent, *, counts: bool = False) -> bool:
    """Do what a client does; return whether the node is one.

    A client waits for the server's answer before it goes on.

    Args:
        node: The node.
        event: What has happened to it.
        counts: Whether it counts its steps, which the server has said, itself.
    """
    if node.id == SERVER:
        return False
    numbers = node.numbers
    if event.kind == "start":
        numbers |= {"time": 0.0, "quota": 0.0, "left": 0.0}
        node.compute()
    elif event.kind == "gradient":
        node.update()
        numbers["left"] -= 1.0
        own = counts and numbers["quota"] > 0
        done = not own or numbers["left"] <= 0
        if own and done:
            numbers["left"] = numbers["quota"]
        if done and node.communicates(now=own):
            node.send([SERVER], time=numbers["time"], step_s=node.step_s)
        else:
            node.compute()
    else:
        numbers["time"] = event.message.numbers["time"]
        numbers["quota"] = event.message.numbers.get("quota", 0.0)
        numbers["left"] = numbers["quota"]
        node.mix(0.0, {event.sender: (1.0, event.message)})
        node.compute()
    return True
