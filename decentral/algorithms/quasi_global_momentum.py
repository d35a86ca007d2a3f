"""Momentum along the way of all nodes."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain",),
    state={"momentum": Kept()},
    identity={"momentum": 0.0},
    refuses={"momentum": "use optimizer sgd(momentum=0)", "node_lr": "leave node_lr out"},
    defaults={"optimizer": "sgd(momentum=0)"},
)
def quasi_global_momentum(block: Block, act: Act | None, *, momentum: Share = 0.9) -> None:
    """QG-DSGDm: x_i <- sum_j W_ij (x_j - lr (g_j + b m_j)), m_i <- b m_i + (1 - b) D_i / lr.

    D_i, how far x_i really moved in the step, has its neighbours' pull in it, so that momentum does
    not carry a node off to its own data. (Lin et al., "Quasi-global momentum", ICML 2021.)
    """
    x, m = block.x, block.state["momentum"]
    before = x.clone()
    block.gradient()
    block.g.add_(m, alpha=momentum)
    block.adapt()
    block.combine(act)
    if block.learning_rate > 0:
        m.mul_(momentum).add_(before - x, alpha=(1 - momentum) / block.learning_rate)
