"""Differences to what everybody knows already."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from decentral.exchange.codec import Draw, Load
from decentral.registry import Bound, Part, Positive, plugin


@plugin(
    "codec",
    memory=True,
    refuses={
        "time_varying": "use a fixed graph and communication constant or every(k=2)",
        "directed": "use an undirected topology",
        "robust": "use codec bf16 or int8, or leave aggregation out",
    },
    example="choco(codec=top_k(0.01), step=0.1)",
)
def choco(
    rows: Tensor,
    load: Load,
    draw: Draw,
    *,
    codec: Annotated[Bound, Part("codec")] = "top_k",  # pyright: ignore
    step: Positive = 0.2,
) -> Tensor:
    """CHOCO-SGD: send q_i = C(x_i - h_i), h_i <- h_i + q_i, x_i <- x_i + step (sum W_ij h_j - h_i).

    What one round leaves out comes in a later one, so that any codec converges if ``step`` is small
    enough. (Koloskova, Stich & Jaggi, "Decentralized stochastic optimization and gossip algorithms
    with compressed communication", ICML 2019.)
    """
    return codec(rows, load, draw)
