"""All-reduce, and algorithms of many local steps between two global or outer steps."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from decentral.algorithms.base import Block, StateSchema
from decentral.algorithms.gossip import dsgd
from decentral.network.planning import RoundAction
from decentral.registry import Count, NonNegative, Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="steps",
    guarantees=("single_node_is_plain", "keeps_mean", "large_batch", "stays_equal"),
)
def allreduce(block: Block, action: RoundAction | None) -> None:
    """Mini-batch SGD: one global average of the gradients per step, x <- x - lr
    (1/N) sum_j g_j.

    The baseline to which bytes are compared: 2 (N - 1) rows in every step.
    """
    block.gradient()
    # Before the step: optimizers with a memory see one gradient on all nodes, whose
    # rows stay equal to the bit.
    block.average_gradients()
    block.adapt()


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "large_batch_on_complete"),
    partial="rounds",
    defaults={"communication": "merges"},
)
def local_sgd(block: Block, action: RoundAction | None) -> None:
    """FedAvg: ``local_steps`` steps alone, then x_i <- (1/N) sum_j x_j.

    It is dsgd with the schedule ``merges``; with ``participation`` the mean is that
    of the nodes that were drawn. (McMahan et al., "Communication-efficient
    learning", AISTATS 2017; Stich, "Local SGD converges fast and communicates
    little", ICLR 2019.)
    """
    dsgd(block, action)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean"),
    partial="rounds",
    defaults={
        "local_steps": 1,
        "communication": "switch(before=merges, after=every(k=10, schedule=merges), at=50%)",
    },
)
def post_local_sgd(block: Block, action: RoundAction | None) -> None:
    """The average of all after every step, from half of the run on only after every
    tenth.

    The opposite of ``late``; another switch is another ``communication``. (Lin et
    al., "Don't use large mini-batches, use local SGD", ICLR 2020.)
    """
    dsgd(block, action)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": StateSchema(begins="model"), "momentum": StateSchema()},
    identity={"slow_lr": 1.0, "slow_momentum": 0.0},
    refuses={"node_lr": "leave node_lr out"},
    partial="rounds",
    defaults={"communication": "merges"},
)
def slowmo(
    block: Block,
    action: RoundAction | None,
    *,
    slow_lr: Positive = 1.0,
    slow_momentum: Share = 0.7,
) -> None:
    """After a global merge: u <- b u + (z - mean x) / lr, z <- z - a lr u; gossip
    is as in dsgd.

    (Wang et al., "SlowMo: improving communication-efficient distributed SGD with
    slow momentum", ICLR 2020; optimizer state is kept.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        slow_lr: Learning rate of the slow step, a.
        slow_momentum: Slow momentum, b.
    """
    block.gradient()
    block.adapt()
    block.combine(action)
    lr = block.learning_rate
    # The momentum is in units of the gradient, so a rate of 0 gives none.
    if action is None or not action.is_merge or lr == 0:
        return
    x, z, u = block.x, block.state["anchor"], block.state["momentum"]
    moved = z - x
    # z - a lr (b u + D / lr), written so that a = 1 and b = 0 change no bit of x.
    x.add_(moved, alpha=1 - slow_lr).sub_(u, alpha=slow_lr * lr * slow_momentum)
    u.mul_(slow_momentum).add_(moved, alpha=1 / lr)
    z.copy_(x)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": StateSchema(begins="model"), "momentum": StateSchema()},
    identity={"outer_lr": 1.0, "outer_momentum": 0.0},
    # Between neighbours the momentum of a node that rests would move it.
    partial="merges",
    defaults={"communication": "merges"},
)
def diloco(
    block: Block,
    action: RoundAction | None,
    *,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.9,
) -> None:
    """Local steps, then an outer one: D = z - mean x, m <- b m + D, z <- z - a (D +
    b m).

    z is where the last round ended and every node goes on from. With a graph and
    the schedule ``constant`` the mean is over neighbours. (Douillard et al.,
    "DiLoCo", 2023.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        outer_lr: Learning rate of the outer step, a.
        outer_momentum: Momentum of the outer step, b.
    """
    block.gradient()
    block.adapt()
    if action is None:
        return
    block.combine(action)
    x, z, m = block.x, block.state["anchor"], block.state["momentum"]
    moved = z - x
    m.mul_(outer_momentum).add_(moved)
    # z - a (D + b m), written so that a = 1 and b = 0 change no bit of x.
    x.add_(moved, alpha=1 - outer_lr).sub_(m, alpha=outer_lr * outer_momentum)
    z.copy_(x)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={
        "anchor": StateSchema(begins="model"),
        "momentum": StateSchema(),
        "due": StateSchema(scalar=True),
    },
    identity={"outer_lr": 1.0, "outer_momentum": 0.0, "fragments": 1},
    fragments="fragments",
    refuses={"compression": "leave codec out", "mix_state": "leave mix_state out"},
    defaults={"communication": "merges"},
)
def streaming_diloco(
    block: Block,
    action: RoundAction | None,
    *,
    fragments: Count = 4,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.9,
    keep: Share = 0.0,
    overlap: Annotated[int, Ge(0)] = 0,
) -> None:
    """DiLoCo on one of F ``fragments`` per round, in turn: a round sends 1 / F of a
    model.

    z <- outer step on that part; ``overlap`` steps later, before the next round and
    in the run at the latest, x <- keep x + (1 - keep) z. At equal bytes it sends F
    times as often. Fragments are F spans of the row rather than layers;
    ``overlap=5, keep=0.5`` hides what travels under five steps. (Douillard et al.,
    "Streaming DiLoCo with overlapping communication", 2025.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        fragments: Parts of a model, one per round.
        outer_lr: Learning rate of the outer step, a.
        outer_momentum: Momentum of the outer step, b.
        keep: Share of the local model that stays when a part arrives.
        overlap: Steps until a part arrives.
    """
    block.gradient()
    block.adapt()
    due, now = block.state["due"], block.progress
    ends = now.step + 1 == now.steps
    # What was sent some steps ago arrives now, or at the latest before the next
    # round.
    if overlap and due.any():
        due.sub_(1).clamp_(min=0)
        if action is not None or ends or not due.any():
            # Rounds were counted on when it was sent: its part is that of the last
            # one.
            _arrive(block, _span(block, now.round - 1, fragments), keep)
    if action is None:
        return
    part = _span(block, now.round, fragments)
    x, z, m = (
        t[:, part] for t in (block.x, block.state["anchor"], block.state["momentum"])
    )
    # ``combine`` writes the mean into x, and the local model goes on until it
    # arrives.
    own = x.clone()
    block.combine(action, part, ahead=overlap > 0)
    moved = z - x
    m.mul_(outer_momentum).add_(moved)
    # z - a (D + b m), written so that a = 1 and b = 0 change no bit of x.
    z.copy_(x.add_(moved, alpha=1 - outer_lr).sub_(m, alpha=outer_lr * outer_momentum))
    x.copy_(own)
    due.fill_(overlap)
    if ends or not overlap:
        _arrive(block, part, keep)


def _span(block: Block, round: int, fragments: int) -> slice:
    """Return the columns whose turn it is."""
    turn, width = round % fragments, block.x.shape[1]
    return slice(turn * width // fragments, (turn + 1) * width // fragments)


def _arrive(block: Block, part: slice, keep: float) -> None:
    """Take in what the outer optimizer has made of a part."""
    # In simulated seconds only now: what travels under steps takes the time that
    # these leave over.
    block.wait()
    block.state["due"].zero_()
    x, z = block.x[:, part], block.state["anchor"][:, part]
    x.copy_(z.lerp(x, keep))


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain",),
    state={"anchor": StateSchema(sent=True, begins="model"), "momentum": StateSchema()},
    identity={"outer_lr": 1.0, "outer_momentum": 0.0},
    refuses={
        "unbalanced": "use topology random_matchings",
        "robust": "leave aggregation out",
    },
    defaults={"topology": "random_matchings", "communication": "constant"},
)
def noloco(
    block: Block,
    action: RoundAction | None,
    *,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.5,
    pull: NonNegative = 1.0,
) -> None:
    """Local steps, then pairs: m_i <- b m_i + a mean(x - z) - c (z_i - mean z), z_i
    <- z_i + m_i.

    Like DiLoCo without an all-reduce; the last term pulls the pair together. Two
    rows a message. (Kolehmainen et al., "NoLoCo: no-all-reduce low communication
    training", 2025.)

    Args:
        block: The rows that are trained here.
        action: What is sent after this step; None: nothing.
        outer_lr: Learning rate of the outer step, a.
        outer_momentum: Momentum of the outer step, b.
        pull: Strength c of the pull between two nodes.
    """
    block.gradient()
    block.adapt()
    if action is None:
        return
    x, z, m = block.x, block.state["anchor"], block.state["momentum"]
    # ``combine`` writes the mean of the pair over z, and the pull is towards it
    # from the own one.
    own = z.clone()
    block.combine(action)
    # z_i + m_i, written so that a = 1 and b = 0 change no bit of a lonely x.
    x.add_(x - z, alpha=outer_lr - 1).add_(own - z, alpha=1 - pull).add_(
        m, alpha=outer_momentum
    )
    m.copy_(x - own)
    z.copy_(x)
