"""Gradients that nodes have agreed on."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "contracts", "reaches_the_optimum"),
    state={"tracker": Kept(sent=True), "before": Kept()},
    refuses={
        "unbalanced": "use topology ring or another undirected one, or algorithm push_sum",
        "robust": "leave aggregation out",
    },
)
def gradient_tracking(block: Block, act: Act | None) -> None:
    """DSGT: y_i <- sum_j W_ij y_j + g_i(x_i) - g_i(before), x_i <- sum_j W_ij (x_j - lr y_j).

    The mean of the y is always the mean of the gradients, so that unlike data leave no bias; it
    costs two rows a message. The optimizer takes y for the gradient. (Pu & Nedic, "Distributed
    stochastic gradient tracking methods", 2021; with local steps: Liu et al., 2023.)
    """
    y, before = block.state["tracker"], block.state["before"]
    block.gradient()
    y.sub_(before).add_(block.g)
    before.copy_(block.g)
    block.g.copy_(y)
    block.adapt()
    block.combine(act)
