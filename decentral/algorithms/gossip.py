"""Gossip algorithms: at every communication step nodes average with their
neighbours.
"""

from __future__ import annotations

from typing import Literal, cast

import torch

from decentral.algorithms.asynchronous import dsgd_in_events
from decentral.algorithms.base import Block, StateSchema
from decentral.algorithms.node import Node, NodeEvent
from decentral.network.planning import RoundAction
from decentral.registry import Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=(
        "single_node_is_plain",
        "keeps_mean",
        "large_batch_on_complete",
        "contracts",
    ),
    time=lambda settings: "rounds" if settings["wait"] == "all" else "neighbours",
    partial="rounds",
)
def dsgd(
    block: Block,
    action: RoundAction | None,
    *,
    order: Literal["adapt_then_combine", "combine_then_adapt"] = "adapt_then_combine",
    wait: Literal["all", "neighbours"] = "all",
) -> None:
    """Local optimizer steps, and gossip averaging of the models when the schedule
    says so.

    adapt-then-combine: x_i <- sum_j W_ij (x_j - lr g_j(x_j)); combine-then-adapt,
    which can overlap with computation: x_i <- sum_j W_ij x_j - lr g_i(x_i). (Lian
    et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017; Koloskova et al., ICML 2020.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        order: Whether nodes adapt before they combine, or after.
        wait: Whether the simulation goes from round to round, or from event to
            event, where it is seen how far nodes are apart at one moment: the same
            models at the same simulated seconds.
    """
    if wait == "neighbours":
        # In simulated time the two are a node, and what has happened to it.
        dsgd_in_events(cast("Node", block), cast("NodeEvent", action), order)
        return
    if order == "combine_then_adapt":
        # Rows leave before the gradient is taken, and what arrives replaces them
        # before the step: the gradient stays that of the point before mixing.
        block.begin(action)
        block.gradient()
        block.combine(action)
        block.adapt()
    else:
        block.gradient()
        block.adapt()
        block.combine(action)


@plugin(
    "algorithm", communicates="never", guarantees=("single_node_is_plain", "keeps_mean")
)
def local(block: Block, action: RoundAction | None) -> None:
    """Let every node train alone: dsgd with the schedule ``none``."""
    dsgd(block, None)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=(
        "single_node_is_plain",
        "large_batch_on_complete",
        "averages_when_directed",
    ),
    state={"weight": StateSchema(sent=True, scalar=True, begins=1.0)},
    weights="push",
    refuses={
        "mix_state": "leave mix_state out",
        "robust": "leave aggregation out",
        "losses": "use faults churn or outages, of which senders know",
    },
)
def push_sum(block: Block, action: RoundAction | None) -> None:
    """SGP: x_i <- sum_j P_ij (x_j - lr g_j(z_j)), w_i <- sum_j P_ij w_j, z_i = x_i
    / w_i.

    Columns of P sum to one, so that sums are kept on any directed graph and z_i
    tends to the average. Rows hold z between steps. (Assran et al., "Stochastic
    gradient push", ICML 2019.)
    """
    x, w = block.sent, block.state["weight"]
    block.gradient()
    # The gradient was taken at z, the average; the step and the sums belong to x =
    # w z.
    x.mul_(w)
    block.adapt()
    block.combine(action)
    x.div_(w)


_COUNT = StateSchema(scalar=True)
_ROW = StateSchema(full_width=True)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=(
        "single_node_is_plain",
        "reaches_the_optimum",
        "exact_after_the_diameter",
    ),
    state={
        "start": StateSchema(full_width=True, begins="model"),
        "sent": _ROW,
        "heard": StateSchema(full_width=True, double=True, sums=True),
        "earlier": StateSchema(full_width=True, double=True),
        "count": StateSchema(sent=True, scalar=True),
        "count_sent": _COUNT,
        "count_heard": _COUNT,
        "count_earlier": _COUNT,
    },
    weights="relay",
    refuses={
        "cycles": "use topology binary_tree, line or star",
        "time_varying": "use a fixed tree and communication constant",
        "compression": "leave codec out",
        "mix_state": "leave mix_state out",
        "robust": "leave aggregation out",
        "losses": "use faults churn or outages, of which senders know",
    },
    defaults={"topology": "binary_tree", "communication": "constant"},
)
def relay_sum(block: Block, action: RoundAction | None) -> None:
    """RelaySGD on a tree: all models reach all nodes, exactly, as late as the way
    is long.

    m_ij = x_i + sum of m_ki over neighbours k but j;
    x_i <- (x_i + sum_j m_ji + (N - count) y_i) / N, where y_i, the model that the
    node began with, stands for models that did not arrive yet, as in the authors'
    code. A node sends all its neighbours s_i = x_i + r_i, with r_i the sum of what
    it received, and each takes away what it sent itself:
    r_i <- sum_j s_j - degree s_i (last) + r_i (last but one). (Vogels et al.,
    "RelaySum", NeurIPS 2021.)
    """
    block.gradient()
    block.adapt()
    if action is None or block.nodes == 1:
        return
    if action.is_merge:
        block.combine(action)
        # All models are equal now, and what is still on its way belongs to none of
        # them: it begins anew.
        for value in block.state.values():
            value.zero_()
        block.state["start"].copy_(block.sent)
        return
    x, count, state = block.sent, block.state["count"], block.state
    own = x.clone()
    before, counted = state["heard"].clone(), state["count_heard"].clone()
    x.copy_(x + before)
    # Counts travel as the models do, so that nobody needs to know the tree.
    count.copy_(counted + 1)
    sent, sent_count = x.clone(), count.clone()
    block.combine(action)
    state["count_heard"].copy_(count)
    degree = block.degree(action)
    # What is rounded here stays in the sums for ever, since it is part of no
    # message that arrives and ends: so they are in double precision, and so is what
    # the exchange adds up. To round what is sent does no harm: it is as if x_i was.
    for of, last, now in (("", before, sent), ("count_", counted, sent_count)):
        heard = state[f"{of}heard"]
        heard.sub_(degree * state[f"{of}sent"].to(heard)).add_(state[f"{of}earlier"])
        state[f"{of}earlier"].copy_(last)
        state[f"{of}sent"].copy_(now)
    missing = block.nodes - 1 - state["count_heard"]
    x.copy_((own + state["heard"] + missing * state["start"]) / block.nodes)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "contracts", "reaches_the_optimum"),
    state={"tracker": StateSchema(sent=True), "before": StateSchema()},
    refuses={
        "unbalanced": "use topology ring or another undirected one, or algorithm push_sum",
        "robust": "leave aggregation out",
    },
)
def gradient_tracking(block: Block, action: RoundAction | None) -> None:
    """DSGT: y_i <- sum_j W_ij y_j + g_i(x_i) - g_i(before), x_i <- sum_j W_ij (x_j
    - lr y_j).

    The mean of the y is always the mean of the gradients, so that unlike data leave
    no bias; it costs two rows a message. The optimizer takes y for the gradient.
    (Pu & Nedic, "Distributed stochastic gradient tracking methods", 2021; with
    local steps: Liu et al., 2023.)
    """
    y, before = block.state["tracker"], block.state["before"]
    block.gradient()
    # Both begin at zero, so that the first tracker is the first gradient.
    y.sub_(before).add_(block.g)
    before.copy_(block.g)
    # In the place of the gradient: clipping, weight decay and the learning rate are
    # then those of the run.
    block.g.copy_(y)
    block.adapt()
    block.combine(action)


_REMEDY = "use algorithm gradient_tracking"


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "reaches_the_optimum"),
    state={"correction": StateSchema()},
    refuses={
        "compression": f"{_REMEDY}, or leave codec out",
        "robust": "leave aggregation out",
        "directed": _REMEDY,
        "unbalanced": "use a topology with doubly stochastic weights",
        "time_varying": f"{_REMEDY}, or a fixed graph and communication constant",
    },
    defaults={"communication": "constant"},
)
def exact_diffusion(block: Block, action: RoundAction | None) -> None:
    """D2: y_i = x_i - lr g_i - d_i / H, x_i <- sum_j V_ij y_j, d_i <- d_i + y_i -
    x_i.

    V = (I + W) / 2. What averaging moves a node by is given back over the next H
    local steps, which removes the bias of unlike data at one row a message. (Tang
    et al., "D2", ICML 2018; Yuan et al., "Exact diffusion", 2019; with local steps:
    Alghunaim, "Local exact-diffusion", 2023.)
    """
    block.gradient()
    block.adapt()
    x, d = block.x, block.state["correction"]
    # In equal parts, so that the whole correction is given back when nodes meet
    # again.
    x.sub_(d, alpha=1 / block.progress.local_steps)
    if action is None:
        return
    y = x.clone()
    block.combine(action)
    if not action.is_merge:
        # ``combine`` gives W y. (I + W) / 2 has no negative eigenvalue, which the
        # correction needs to converge. A global merge is an average already.
        x.lerp_(y, 0.5)
    d.add_(y - x)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("contracts",),
    state={
        "first": StateSchema(),
        "second": StateSchema(),
        "largest": StateSchema(),
        "shared": StateSchema(sent=True),
    },
    refuses={
        "momentum": "use optimizer sgd(momentum=0)",
        "unbalanced": "use a topology with doubly stochastic weights",
        "robust": "leave aggregation out",
    },
    defaults={"optimizer": "sgd(momentum=0, weight_decay=0)", "learning_rate": 0.001},
)
def damsgrad(
    block: Block,
    action: RoundAction | None,
    *,
    beta1: Share = 0.9,
    beta2: Share = 0.999,
    eps: Positive = 1e-8,
) -> None:
    """Decentralized AMSGrad: x_i <- sum_j W_ij (x_j - lr m_j / sqrt(u_j)); u tracks
    the mean v-hat.

    Each node's own second moments would lead to a wrong point; here their running
    maxima v-hat are gossiped as a second channel: u_i <- sum_j W_ij (u_j + change
    of v-hat_j). (Chen et al., "On the convergence of decentralized adaptive
    gradient methods", ACML 2022, in the order adapt-combine.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        beta1: Decay rate of the momentum.
        beta2: Decay rate of the mean square of gradients.
        eps: Added to the root in the denominator.
    """
    m, v, largest, u = (block.state[k] for k in ("first", "second", "largest", "shared"))
    block.gradient()
    m.lerp_(block.g, 1 - beta1)
    v.lerp_(block.g.square(), 1 - beta2)
    # By how much the maxima have grown, and not the maxima: gossip keeps the mean
    # of u, which so stays the mean of the maxima.
    grown = torch.maximum(largest, v)
    u.add_(grown - largest)
    largest.copy_(grown)
    # The plain optimizer makes the step from it. Coding may take u slightly below
    # 0.
    block.g.copy_(m / (u.clamp(min=0).sqrt() + eps))
    block.adapt()
    block.combine(action)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain",),
    state={"momentum": StateSchema()},
    identity={"momentum": 0.0},
    refuses={"momentum": "use optimizer sgd(momentum=0)", "node_lr": "leave node_lr out"},
    defaults={"optimizer": "sgd(momentum=0)"},
)
def quasi_global_momentum(
    block: Block, action: RoundAction | None, *, momentum: Share = 0.9
) -> None:
    """QG-DSGDm: x_i <- sum_j W_ij (x_j - lr (g_j + b m_j)), m_i <- b m_i + (1 - b)
    D_i / lr.

    D_i, how far x_i really moved in the step, has its neighbours' pull in it, so
    that momentum does not carry a node off to its own data. (Lin et al.,
    "Quasi-global momentum", ICML 2021.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        momentum: Momentum b.
    """
    x, m = block.x, block.state["momentum"]
    before = x.clone()
    block.gradient()
    # As the gradient, so that clipping and the learning rate are those of the run.
    block.g.add_(m, alpha=momentum)
    block.adapt()
    block.combine(action)
    # A rate of 0 moves nothing: there is no direction to read off.
    if block.learning_rate > 0:
        m.mul_(momentum).add_(before - x, alpha=(1 - momentum) / block.learning_rate)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "large_batch_on_complete", "contracts"),
    state={"active": StateSchema(scalar=True, begins=1.0)},
    counts="active",
    refuses={
        "momentum": "use optimizer sgd(momentum=0)",
        "compression": "leave codec out",
    },
    defaults={
        "topology": "teleportation",
        "communication": "constant",
        "optimizer": "sgd(momentum=0, weight_decay=0)",
    },
)
def teleportation(block: Block, action: RoundAction | None) -> None:
    """x_a' <- sum_b W_ab (x_b - lr g_b): k new active nodes a' take what the last k
    have learned.

    On the topology of that name; W is that of a small graph between the k models,
    so that the rate does not suffer from many nodes. Who is not active stays as it
    is, and does not count in metrics and merges. (Takezawa & Stich, "Scalable
    decentralized learning with teleportation", ICLR 2025.)
    """
    x, active = block.x, block.state["active"]
    before = x.clone()
    block.gradient()
    block.adapt()
    # All rows take the step, since they are computed together; it is taken back
    # where a node rests.
    x.copy_(torch.where(active > 0, x, before))
    block.combine(action)
    if action is None or block.nodes == 1:
        return
    # Who has received is active next: the models went there. After a merge
    # everybody has one.
    active.copy_(torch.ones_like(active) if action.is_merge else block.degree(action) > 0)
