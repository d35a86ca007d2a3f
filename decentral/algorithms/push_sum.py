"""Averaging on directed graphs."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "large_batch_on_complete", "averages_when_directed"),
    state={"weight": Kept(sent=True, scalar=True, begins=1.0)},
    weights="push",
    refuses={
        "mix_state": "leave mix_state out",
        "robust": "leave aggregation out",
        "losses": "use faults churn or outages, of which senders know",
    },
)
def push_sum(block: Block, act: Act | None) -> None:
    """SGP: x_i <- sum_j P_ij (x_j - lr g_j(z_j)), w_i <- sum_j P_ij w_j, z_i = x_i / w_i.

    Columns of P sum to one, so that sums are kept on any directed graph and z_i tends to the
    average. Rows hold z between steps. (Assran et al., "Stochastic gradient push", ICML 2019.)
    """
    x, w = block.sent, block.state["weight"]
    block.gradient()
    x.mul_(w)
    block.adapt()
    block.combine(act)
    x.div_(w)
