"""Decentralized SGD."""

from __future__ import annotations

from typing import Literal

from decentral.algorithms import Block
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "large_batch_on_complete", "contracts"),
)
def dsgd(
    block: Block,
    act: Act | None,
    *,
    order: Literal["adapt_then_combine", "combine_then_adapt"] = "adapt_then_combine",
) -> None:
    """Local optimizer steps, and gossip averaging of the models when the schedule says so.

    adapt-then-combine: x_i <- sum_j W_ij (x_j - lr g_j(x_j)); combine-then-adapt, which can overlap
    with computation: x_i <- sum_j W_ij x_j - lr g_i(x_i). (Lian et al., "Can decentralized
    algorithms outperform centralized algorithms?", NeurIPS 2017; Koloskova et al., ICML 2020.)
    """
    if order == "combine_then_adapt":
        block.begin(act)
        block.gradient()
        block.combine(act)
        block.adapt()
    else:
        block.gradient()
        block.adapt()
        block.combine(act)
