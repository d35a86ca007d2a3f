"""Sums that are passed on along a tree."""

from __future__ import annotations

from torch import Tensor

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import plugin

_COUNT = Kept(scalar=True)
_ROW = Kept(whole=True)


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "reaches_the_optimum", "exact_after_the_diameter"),
    state={
        "sent": _ROW,
        "heard": _ROW,
        "earlier": _ROW,
        "count": Kept(sent=True, scalar=True),
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
def relay_sum(block: Block, act: Act | None) -> None:
    """RelaySGD on a tree: everybody hears everybody's model, exactly, as late as the way is long.

    m_ij = x_i + sum of m_ki over neighbours k but j; x_i <- (sum_j m_ji + (N - count) x_i) / N,
    where x_i stands for models that did not arrive yet. A node tells all its neighbours s_i =
    x_i + r_i, with r_i the sum of what it heard, and each takes away what it said itself: r_i <-
    sum_j s_j - degree s_i (last) + r_i (last but one). (Vogels et al., "RelaySum", NeurIPS 2021.)
    """
    block.gradient()
    block.adapt()
    if act is None or block.nodes == 1:
        return
    if act.is_merge:
        block.combine(act)
        for value in block.state.values():
            value.zero_()
        return
    x, count, state = block.sent, block.state["count"], block.state
    own = x.clone()
    x.add_(state["heard"])
    count.copy_(state["count_heard"]).add_(1)
    said, said_count = x.clone(), count.clone()
    block.combine(act)
    degree = block.degree(act)
    _relayed(x, said, degree, (state["sent"], state["heard"], state["earlier"]))
    counts = (state["count_sent"], state["count_heard"], state["count_earlier"])
    _relayed(count, said_count, degree, counts)
    missing = block.nodes - count
    x.add_(missing * own).div_(block.nodes)


def _relayed(sums: Tensor, said: Tensor, degree: Tensor, kept: tuple[Tensor, ...]) -> None:
    """Take what a node said itself out of the sums of what it hears, and remember."""
    sent, heard, earlier = kept
    sums.sub_(degree * sent).add_(earlier)
    earlier.copy_(heard)
    heard.copy_(sums)
    sent.copy_(said)
