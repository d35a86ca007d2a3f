"""Slow momentum on top of any averaging."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": Kept(begins="model"), "momentum": Kept()},
    identity={"slow_lr": 1.0, "slow_momentum": 0.0},
    refuses={"node_lr": "leave node_lr out"},
    defaults={"communication": "merges"},
)
def slowmo(
    block: Block, act: Act | None, *, slow_lr: Positive = 1.0, slow_momentum: Share = 0.7
) -> None:
    """After a global merge: u <- b u + (z - mean x) / lr, z <- z - a lr u; gossip is as in dsgd.

    (Wang et al., "SlowMo: improving communication-efficient distributed SGD with slow momentum",
    ICLR 2020; optimizer state is kept.)
    """
    block.gradient()
    block.adapt()
    block.combine(act)
    lr = block.learning_rate
    if act is None or not act.is_merge or lr == 0:
        return
    x, z, u = block.x, block.state["anchor"], block.state["momentum"]
    moved = z - x
    # z - a lr (b u + D / lr), written so that a = 1 and b = 0 change no bit of x.
    x.add_(moved, alpha=1 - slow_lr).sub_(u, alpha=slow_lr * lr * slow_momentum)
    u.mul_(slow_momentum).add_(moved, alpha=1 / lr)
    z.copy_(x)
