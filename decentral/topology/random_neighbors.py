"""Peers drawn anew by every node in every round."""

from __future__ import annotations

import networkx as nx
import numpy as np

from decentral import rng
from decentral.registry import Positive, plugin


@plugin(
    "topology",
    activation="degree",
    disconnected="connected only in expectation: every round draws new peers",
    expected_links=lambda n, intensity, settings: n * min(settings["r"] * intensity, n - 1),
)
def random_neighbors(
    n: int, round: int, seed: int, intensity: float, *, r: Positive = 1.0
) -> nx.DiGraph[int]:
    """Every node hears on average r random others per round; r may be 0.2 or 3.

    The node draws floor(r) peers and one more with probability r - floor(r), without repetition,
    and weighs them uniformly: the mixing is row-stochastic only, so the mean of the models drifts.
    An intensity multiplies r. (The random graph of "On the surprising effectiveness of a single
    global merging in decentralized learning", ICLR 2026.)

    >>> random_neighbors(8, 0, 1, 1.0, r=2).number_of_edges()
    16
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    wanted = min(r * intensity, n - 1)
    nodes = np.arange(n)
    extra = rng.uniform(seed, "peers/extra", round, nodes) < wanted - int(wanted)
    counts = int(wanted) + extra.astype(np.int64)
    for place in range(int(counts.max(initial=0))):
        drawing = nodes[counts > place]
        others = rng.permuted(place, n - 1, seed, "peers", round, drawing)
        graph.add_edges_from(
            zip((others + (others >= drawing)).tolist(), drawing.tolist(), strict=True)
        )
    return graph
