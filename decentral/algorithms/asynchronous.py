"""Asynchronous algorithms: what a node does when something happens to it, nobody
waiting for the rest of the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from decentral.algorithms.node import Node, NodeEvent, Part, Version
from decentral.registry import Count, plugin

#: What asynchronous runs have where the user says nothing: machines that differ, on
#: links that take time.
WORLD: dict[str, Any] = {
    "compute": "lognormal",
    "network": "lan",
    "communication": "constant(final_merge=true)",
    "local_steps": 1,
}


#: While a sender's line is busy the newest model waits, or all, or the sender, too.
Queue = Literal["newest", "all", "wait"]


@plugin(
    "algorithm",
    time="events",
    guarantees=("single_node_is_plain", "keeps_mean", "contracts"),
    defaults=WORLD,
)
def ad_psgd(
    node: Node,
    event: NodeEvent,
    *,
    exchange: Literal["atomic", "in_flight"] = "atomic",
    overlap: bool = False,
    lock: bool = False,
) -> None:
    """AD-PSGD: a node that has a gradient averages with one random neighbour, then
    x_i <- x_i - lr g_i(snapshot).

    x_i, x_j <- (x_i + x_j) / 2, with both models as they are when the transfer ends
    (``atomic``), or half the difference of the models when it began is added to
    each (``in_flight``). The partner computes on; its gradient stays that of its
    snapshot. A node's cycle is computing plus transfer, or with ``overlap`` the
    longer of the two: the update then comes before the average. (Lian, Zhang, Zhang
    & Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML
    2018.)

    Args:
        node: The node.
        event: What has happened to it.
        exchange: Which models the two average.
        overlap: Whether the next gradient is computed during the transfer.
        lock: Whether a node takes part in one transfer at a time; those who wait
            are served in the order in which they came.
    """
    numbers = node.numbers
    if event.kind == "start":
        numbers["meeting"] = 0.0
        node.compute()
    elif event.kind == "transfer":
        numbers["meeting"] = 0.0
        node.average(event)
        if not overlap or node.has_gradient:
            _adapt(node, exchange == "in_flight", overlap, lock)
    elif not overlap and node.neighbours and node.communicates():
        _meet(node, exchange == "in_flight", lock)
    elif not numbers["meeting"]:  # else the gradient waits for the last transfer
        _adapt(node, exchange == "in_flight", overlap, lock)


def _adapt(node: Node, begun: bool, overlap: bool, lock: bool) -> None:
    """Update, and go on; with ``overlap`` while models are exchanged.

    Args:
        node: The node.
        begun: Whether models are averaged as they are when the exchange begins.
        overlap: Whether the next gradient is computed meanwhile.
        lock: Whether a node takes part in one exchange at a time.
    """
    node.update()
    if overlap and node.neighbours and node.communicates():
        _meet(node, begun, lock)
    node.compute()


def _meet(node: Node, begun: bool, lock: bool) -> None:
    node.numbers["meeting"] = 1.0
    node.meet(node.draw_nodes(node.neighbours, 1)[0], begun=begun, alone=lock)


@plugin(
    "algorithm",
    time="events",
    guarantees=("single_node_is_plain", "contracts", "nobody_waits"),
    defaults=WORLD,
)
def gossip_learning(
    node: Node,
    event: NodeEvent,
    *,
    tokens: Literal["none", "simple", "generalized", "randomized"] = "none",
    capacity: Count = 10,
    aggressiveness: Count = 5,
    queue: Queue = "newest",
) -> None:
    """Models walk: after an update a node sends (x_i, age_i) to one random
    neighbour, which averages by age.

    x_i <- (age_i x_i + age_j x_j) / (age_i + age_j), age_i <- max(age_i, age_j)
    when a message arrives. With ``tokens`` a node earns one per update instead of
    sending, and spends them when a message arrives (token accounts). (Ormandi,
    Hegedus & Jelasity, "Gossip learning with linear models on fully distributed
    data", 2013; Danner & Jelasity, "Token account algorithms", ICDCS 2018.)

    Args:
        node: The node.
        event: What has happened to it.
        tokens: The strategy of the account; none: a message after every update.
        capacity: Most tokens of an account, C.
        aggressiveness: A: how many tokens make a node answer.
        queue: While the sender's line is busy: its newest model waits, all do, or the
            sender does before it computes on.
    """
    numbers = node.numbers
    if event.kind == "start":
        numbers |= {"age": 0.0, "tokens": 0.0}
        node.compute()
    elif event.kind == "gradient":
        node.update()
        numbers["age"] += 1.0
        if node.communicates():
            balance = numbers["tokens"]
            chance = _proactive(tokens, balance, capacity, aggressiveness)
            if node.happens(chance, "proactive"):
                _walk(node, 1, queue)
            else:
                numbers["tokens"] += 1.0
        node.compute()
    else:
        own, theirs = numbers["age"], event.message.numbers["age"]
        useful = theirs >= own
        if theirs:  # two models that have learned nothing stay what they are
            weight = theirs / (own + theirs)
            node.mix(1.0 - weight, {event.sender: (weight, event.message)})
        numbers["age"] = max(own, theirs)
        answers = _reactive(tokens, numbers["tokens"], aggressiveness, useful)
        # A fraction is a chance.
        spent = int(answers) + node.happens(answers % 1.0, "reactive")
        numbers["tokens"] -= spent
        _walk(node, spent, queue)


def _walk(node: Node, count: int, queue: Queue) -> None:
    receivers = node.out_neighbours
    for _ in range(count if receivers else 0):
        one, age = node.draw_nodes(receivers, 1), node.numbers["age"]
        node.send(one, waits=queue, age=age)


def _proactive(strategy: str, balance: float, most: int, answer: int) -> float:
    """Return the chance that a node sends on its own."""
    if strategy == "none":
        return 1.0
    if strategy != "randomized":
        return float(balance >= most)
    return min(1.0, max(0.0, (balance - answer + 1) / (most - answer + 1)))


def _reactive(strategy: str, balance: float, answer: int, useful: bool) -> float:
    """Return how many messages a node sends because one has arrived."""
    match strategy:
        case "simple":
            return float(balance > 0)
        case "generalized":
            # All of it after news, half of it otherwise, rounded down.
            return (answer - 1 + balance) // (answer if useful else 2 * answer)
        case "randomized":
            return balance / answer if useful else 0.0
        case _:
            return 0.0


@plugin(
    "algorithm",
    time="events",
    guarantees=(
        "single_node_is_plain",
        "contracts",
        "nobody_waits",
        "synchronous_at_equal_speed",
    ),
    defaults=WORLD,
)
def swift(
    node: Node,
    event: NodeEvent,
    *,
    every: Count = 1,
    send: Literal["every", "mixing"] = "every",
    queue: Queue = "newest",
) -> None:
    """SWIFT: before every C-th update a node mixes with the newest models that it
    has of its neighbours, and never waits.

    x_i <- sum_j W_ij x_j, then x_i <- x_i - lr g_i(snapshot); W_ij of neighbours
    who have not been heard of stays with x_i. What it does to the length of a step
    is shown as ``simulation/gain``. (Bornstein, Rabbani, Wang, Bedi & Huang,
    "SWIFT: Rapid decentralized federated learning via wait-free model
    communication", ICLR 2023.)

    Args:
        node: The node.
        event: What has happened to it.
        every: C: updates from one mixing to the next.
        send: Whether the model is sent after every update, or after those that
            mixed.
        queue: While the sender's line is busy: its newest model waits, all do, or the
            sender does before it computes on.
    """
    if event.kind == "start":
        node.compute()
    elif event.kind == "gradient":
        communicates = node.communicates()
        mixes = communicates and (node.updates + 1) % every == 0
        if mixes and node.mailbox:
            weights = cast("Mapping[int, float]", node.weights)
            heard = {j: (weights[j], one) for j, one in node.mailbox.items()}
            node.mix(1.0 - sum(weight for weight, _ in heard.values()), heard)
        node.update()
        if communicates and (mixes or send == "every"):
            node.send(node.out_neighbours, waits=queue)
        node.compute()
    else:
        node.mailbox[event.sender] = event.message


@plugin(
    "algorithm",
    time="events",
    weights="push",
    guarantees=("single_node_is_plain", "contracts", "nobody_waits"),
    defaults=WORLD,
)
def async_push_sum(node: Node, event: NodeEvent) -> None:
    """Asynchronous gradient push: x_i <- x_i - lr g_i(z_i), then equal shares of
    (x_i, w_i) to oneself and all out-neighbours; z_i = x_i / w_i.

    What arrives is added. Rows hold z; nothing is ever dropped: what waits for a
    busy line is added up. (Assran, Loizou, Ballas & Rabbat, "Stochastic gradient
    push", ICML 2019; Assran & Rabbat, "Asynchronous gradient push", 2021.)

    Args:
        node: The node.
        event: What has happened to it.
    """
    numbers = node.numbers
    if event.kind == "start":
        numbers["weight"] = 1.0
        node.compute()
    elif event.kind == "gradient":
        # The step belongs to x = w z, and rows hold z.
        node.update(scale=numbers["weight"])
        receivers = node.out_neighbours
        if receivers and node.communicates():
            numbers["weight"] /= len(receivers) + 1
            node.send(receivers, adds="weight", weight=numbers["weight"])
        node.compute()
    else:
        own, theirs = numbers["weight"], event.message.numbers["weight"]
        share = theirs / (own + theirs)
        node.mix(1.0 - share, {event.sender: (share, event.message)})
        numbers["weight"] = own + theirs


@plugin(
    "algorithm",
    time="events",
    guarantees=("single_node_is_plain", "contracts", "nobody_waits"),
    defaults=WORLD,
)
def epidemic(
    node: Node, event: NodeEvent, *, receivers: Count = 2, queue: Queue = "newest"
) -> None:
    """Epidemic learning, local: a node sends x_i to s random nodes after an update,
    then averages with all that arrived since.

    x_i <- (x_i + sum_j x_j) / (1 + n) over the n models that arrived; the topology
    says among whom is drawn. (de Vos, Farhadkhani, Guerraoui, Kermarrec, Pires &
    Sharma, "Epidemic learning: boosting decentralized learning with randomized
    communication", NeurIPS 2023.)

    Args:
        node: The node.
        event: What has happened to it.
        receivers: s: to how many a model is sent.
        queue: While the sender's line is busy: its newest model waits, all do, or the
            sender does before it computes on.
    """
    if event.kind == "start":
        node.compute()
    elif event.kind == "gradient":
        node.update()
        if node.communicates():
            if node.out_neighbours:
                drawn = node.draw_nodes(node.out_neighbours, receivers)
                node.send(drawn, waits=queue)
            arrived = node.mailbox
            if arrived:
                share = 1.0 / (1 + len(arrived))
                node.mix(share, {j: (share, one) for j, one in arrived.items()})
                arrived.clear()
        node.compute()
    else:
        node.mailbox[event.sender] = event.message


@plugin(
    "algorithm",
    time="events",
    guarantees=("single_node_is_plain", "contracts", "nobody_waits"),
    defaults={**WORLD, "local_steps": 10},
)
def divshare(
    node: Node, event: NodeEvent, *, fragments: Count = 10, receivers: Count = 2
) -> None:
    """DivShare: after ``local_steps`` a node cuts x_i into F fragments and sends
    each to J random nodes, one after the other; slow links carry some fragments,
    not none.

    Every fragment of x_i becomes the mean of itself and of the newest that arrived
    of each sender since, x_i^f <- (x_i^f + sum_j x_j^f) / (1 + n_f), before the
    next local step. Fragments leave in random order; what has not left by the next
    round is dropped. The topology says among whom is drawn. (Biswas, Kermarrec,
    Sharma, Trinca & de Vos, "Boosting asynchronous decentralized learning with
    model fragmentation", WWW 2025.)

    Args:
        node: The node.
        event: What has happened to it.
        fragments: F, 1 / Omega of the paper: parts of a model.
        receivers: J: to how many a fragment is sent.
    """
    if event.kind == "start":
        node.compute()
    elif event.kind == "gradient":
        node.update()
        if node.communicates():
            _send_fragments(node, fragments, receivers)
            _mix_fragments(node, fragments)
        node.compute()
    else:
        message = event.message
        assert message.part is not None, "only fragments are sent"
        node.mailbox[event.sender * fragments + message.part.index] = message


def _send_fragments(node: Node, fragments: int, receivers: int) -> None:
    """Send every fragment to so many nodes, in random order."""
    letters = [
        (other, Part(index, fragments))
        for index in range(fragments if node.out_neighbours else 0)
        for other in node.draw_nodes(node.out_neighbours, receivers)
    ]
    order = sorted((node.draw("order"), place) for place in range(len(letters)))
    node.send_parts([letters[place] for _, place in order])


def _mix_fragments(node: Node, fragments: int) -> None:
    """Let every fragment be the mean of the own and of those that arrived."""
    arrived: dict[Part, list[Version]] = {}
    for _, one in sorted(node.mailbox.items()):
        assert one.part is not None, "only fragments are kept"
        arrived.setdefault(one.part, []).append(one)
    for part, others in arrived.items():
        node.mix_part(part, 1.0 / (1 + len(others)), others)
    node.mailbox.clear()


# --- rounds without a barrier -----------------------------------------------------


def dsgd_in_events(node: Node, event: NodeEvent, order: str) -> None:
    """Do what dsgd does, when it has happened to one node: see `dsgd`."""
    early = order == "combine_then_adapt"
    if event.kind == "gradient" and early and node.numbers["sent"]:
        node.await_round()
        return
    if event.kind == "round":
        node.mix_round()
    if event.kind == "gradient" or (event.kind == "round" and early):
        node.update()
    if event.kind == "gradient" and not early and node.send_round():
        node.await_round()
    elif node.compute() and early:
        node.numbers["sent"] = float(node.send_round())
