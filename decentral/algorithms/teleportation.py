"""A few active nodes, others in every round."""

from __future__ import annotations

import torch

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "large_batch_on_complete", "contracts"),
    state={"active": Kept(scalar=True, begins=1.0)},
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
def teleportation(block: Block, act: Act | None) -> None:
    """x_a' <- sum_b W_ab (x_b - lr g_b): k new active nodes a' take what the last k have learned.

    On the topology of that name; W is that of a small graph between the k models, so that the rate
    does not suffer from many nodes. Who is not active stays as it is, and does not count in metrics
    and merges. (Takezawa & Stich, "Scalable decentralized learning with teleportation", ICLR 2025.)
    """
    x, active = block.x, block.state["active"]
    before = x.clone()
    block.gradient()
    block.adapt()
    x.copy_(torch.where(active > 0, x, before))
    block.combine(act)
    if act is None or block.nodes == 1:
        return
    active.copy_(torch.ones_like(active) if act.is_merge else block.degree(act) > 0)
