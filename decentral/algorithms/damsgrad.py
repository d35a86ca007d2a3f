"""Adaptive step sizes that nodes agree on."""

from __future__ import annotations

import torch

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("contracts",),
    state={
        "first": Kept(),
        "second": Kept(),
        "largest": Kept(),
        "shared": Kept(sent=True),
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
    act: Act | None,
    *,
    beta1: Share = 0.9,
    beta2: Share = 0.999,
    eps: Positive = 1e-8,
) -> None:
    """Decentralized AMSGrad: x_i <- sum_j W_ij (x_j - lr m_j / sqrt(u_j)); u tracks the mean v-hat.

    Each node's own second moments would lead to a wrong point; here their running maxima v-hat are
    gossiped as a second channel: u_i <- sum_j W_ij (u_j + change of v-hat_j). (Chen et al., "On the
    convergence of decentralized adaptive gradient methods", ACML 2022, in the order adapt-combine.)
    """
    m, v, largest, u = (block.state[k] for k in ("first", "second", "largest", "shared"))
    block.gradient()
    m.lerp_(block.g, 1 - beta1)
    v.lerp_(block.g.square(), 1 - beta2)
    grown = torch.maximum(largest, v)
    u.add_(grown - largest)
    largest.copy_(grown)
    block.g.copy_(m / (u.clamp(min=0).sqrt() + eps))
    block.adapt()
    block.combine(act)
