"""Diffusion without the bias of unlike data."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import plugin

_REMEDY = "use algorithm gradient_tracking"


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "reaches_the_optimum"),
    state={"correction": Kept()},
    refuses={
        "compression": f"{_REMEDY}, or leave codec out",
        "robust": "leave aggregation out",
        "directed": _REMEDY,
        "unbalanced": "use a topology with doubly stochastic weights",
        "time_varying": f"{_REMEDY}, or a fixed graph and communication constant",
    },
    defaults={"communication": "constant"},
)
def exact_diffusion(block: Block, act: Act | None) -> None:
    """D2: y_i = x_i - lr g_i - d_i / H, x_i <- sum_j V_ij y_j, d_i <- d_i + y_i - x_i.

    V = (I + W) / 2. What averaging moves a node by is given back over the next H local steps, which
    removes the bias of unlike data at one row a message. (Tang et al., "D2", ICML 2018; Yuan et
    al., "Exact diffusion", 2019; with local steps: Alghunaim, "Local exact-diffusion", 2023.)
    """
    x, d = block.x, block.state["correction"]
    block.gradient()
    block.adapt()
    x.sub_(d, alpha=1 / block.progress.local_steps)
    if act is None:
        return
    y = x.clone()
    block.combine(act)
    if not act.is_merge:
        x.lerp_(y, 0.5)
    d.add_(y - x)
