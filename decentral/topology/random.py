"""Random graphs: drawn once by the seed, or anew in every round."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count
from math import log
from typing import Annotated, Any

import networkx as nx
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.registry import (
    ConfiguredPlugin,
    Count,
    NestedPlugin,
    Positive,
    Share,
    build,
    plugin,
)
from decentral.topology.base import Sizes, Topology

_ATTEMPTS = 200


@plugin("topology")
def erdos_renyi(
    n: int, seed: int, *, p: Annotated[float, Gt(0), Le(1)] | None = None
) -> nx.Graph[int]:
    """Every pair is linked with probability p, drawn again until the graph is
    connected.

    ``p`` defaults to min(1, 2 ln n / n), where connected graphs are the rule.

    Args:
        n: Number of nodes.
        seed: Seed of the run.
        p: Probability of a link; none: min(1, 2 ln n / n).

    >>> erdos_renyi(5, 0, p=1.0).number_of_edges()
    10
    """
    chance = min(1.0, 2 * log(max(n, 2)) / n) if p is None else p
    for attempt in range(_ATTEMPTS):
        graph = nx.gnp_random_graph(n, chance, seed=(seed + attempt) % 2**32)
        if nx.is_connected(graph):
            return graph
    raise ConfigError(
        f"topology 'erdos_renyi': no connected graph in {_ATTEMPTS} draws with n = {n}, "
        f"p = {chance:.3g}; raise p above {log(max(n, 2)) / n:.2g}."
    )


@plugin("topology")
def watts_strogatz(
    n: int, seed: int, *, k: Annotated[int, Ge(2)] = 4, p: Share = 0.3
) -> nx.Graph[int]:
    """A ring where everybody knows the k nearest, and each link is rewired with
    probability p.

    p = 0 is a lattice with a gap of order k^2 / n^2, p near 1 almost a random
    graph; drawn again until connected. (Watts & Strogatz, "Collective dynamics of
    small-world networks", 1998.)

    Args:
        n: Number of nodes.
        seed: Seed of the run.
        k: Nearest nodes on the ring that a node is linked to.
        p: Probability that a link is rewired.

    >>> watts_strogatz(10, 0, k=4).number_of_edges()
    20
    """
    draws = (
        nx.watts_strogatz_graph(n, min(k, n), p, seed=(seed + i) % 2**32) for i in count()
    )
    return next(graph for graph in draws if nx.is_connected(graph))


@plugin("topology")
def barabasi_albert(n: int, seed: int, *, m: Count = 2) -> nx.Graph[int]:
    """Nodes come one by one and link to m earlier ones, preferring those with many
    links.

    A few hubs, many leaves: degrees follow a power law. (Barabasi & Albert,
    "Emergence of scaling in random networks", 1999.)

    Args:
        n: Number of nodes.
        seed: Seed of the run.
        m: Links that a new node brings.

    >>> barabasi_albert(10, 0, m=2).number_of_edges()
    16
    """
    if n <= m:
        return nx.complete_graph(n)
    return nx.barabasi_albert_graph(n, m, seed=seed % 2**32)


def _fits(n: int, settings: Mapping[str, Any]) -> bool:
    degree = settings["degree"]
    return n <= degree + 1 or (n * degree % 2 == 0 and degree > 1)


@plugin("topology", sizes=Sizes(_fits, "even where the degree is odd"))
def random_regular(n: int, seed: int, *, degree: Count = 4) -> nx.Graph[int]:
    """Everybody has the same number of peers, drawn at random until the graph is
    connected.

    An expander with high probability: with weights 1/(1 + d) the gap tends to 1 -
    (1 + 2 sqrt(d - 1)) / (1 + d) (Friedman, "A proof of Alon's second eigenvalue
    conjecture", 2008). Nodes too few for the degree are all linked.

    Args:
        n: Number of nodes.
        seed: Seed of the run.
        degree: Peers of every node.

    >>> {d for _, d in random_regular(10, 0, degree=3).degree()}
    {3}
    """
    if n <= degree + 1:
        return nx.complete_graph(n)
    draws = (nx.random_regular_graph(degree, n, seed=(seed + i) % 2**32) for i in count())
    return next(graph for graph in draws if nx.is_connected(graph))


def _base(among: ConfiguredPlugin, n: int) -> Topology:
    """Return the graph whose links are drawn from, which is the same in all rounds."""
    return _kept_base(json.dumps(among.spec()), n)


@lru_cache(maxsize=8)
def _kept_base(written: str, n: int) -> Topology:
    among = build("topology", json.loads(written))
    base = Topology(among, n)
    if base.time_varying:
        raise ConfigError(
            f"random_neighbors: among = {among.name!r} changes every round; draw from a fixed "
            "graph, such as exponential or ring."
        )
    return base


def _candidates(base: Topology) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the senders of all links by receiver, and where those of each begin."""
    links = base.links(0)
    degrees = np.bincount(links.receivers, minlength=base.nodes)
    return links.senders, np.concatenate(([0], np.cumsum(degrees)))


def _draw_among(
    base: Topology, counts: NDArray[np.int64], seed: int, round: int
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Draw links of a graph without repetition, and give them with their cables.

    Args:
        base: The graph.
        counts: How many each node draws, if it has as many, [n].
        seed: Seed of the topology.
        round: Round, counted from 0.
    """
    senders, spans = _candidates(base)
    degrees = np.diff(spans)
    for degree in np.unique(degrees):
        of_degree = np.flatnonzero(degrees == degree)
        for place in range(min(degree, int(counts[of_degree].max(initial=0)))):
            drawing = of_degree[counts[of_degree] > place]
            chosen = rng.permute(place, degree, seed, "peers", round, drawing)
            found = senders[spans[drawing] + chosen]
            for u, v in zip(found.tolist(), drawing.tolist(), strict=True):
                yield u, v, _cable(base, u, v)


def _cable(base: Topology, sender: int, receiver: int) -> dict[str, Any]:
    """Return what a link is made of: all that its graph says but the weight."""
    data = base.graph(0).edges[sender, receiver]
    return {key: value for key, value in data.items() if key != "weight"}


def _expected_links(n: int, intensity: float, settings: Mapping[str, Any]) -> float:
    wanted, among = settings["r"] * intensity, settings["among"]
    if among is None:
        return n * min(wanted, n - 1)
    degrees = np.diff(_candidates(_base(among, n))[1])
    return float(np.minimum(degrees, wanted).sum())


@plugin(
    "topology",
    activation="degree",
    disconnected="connected only in expectation: every round draws new peers",
    expected_links=_expected_links,
)
def random_neighbors(
    n: int,
    round: int,
    seed: int,
    intensity: float,
    *,
    r: Positive = 1.0,
    among: Annotated[
        ConfiguredPlugin | None, NestedPlugin("topology", optional=True)
    ] = None,
) -> nx.DiGraph[int]:
    """Every node receives from on average r random others per round; r may be 0.2
    or 3.

    The node draws floor(r) peers and one more with probability r - floor(r),
    without repetition, and weighs them uniformly: the mixing is row-stochastic
    only, so the mean of the models drifts. An intensity multiplies r. With
    ``among=exponential`` they are drawn from the node's neighbours in that graph,
    as many as there are at most: the authors' ``exponential+random``. (The random
    graphs of "On the surprising effectiveness of a single global merging in
    decentralized learning", ICLR 2026.)

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        seed: Seed of the run.
        intensity: Intensity of the round, in (0, 1].
        r: Nodes that a node receives from in a round, on average.
        among: Graph whose links are drawn from; none: all pairs.

    >>> random_neighbors(8, 0, 1, 1.0, r=2).number_of_edges()
    16
    """
    graph = nx.empty_graph(n, create_using=nx.DiGraph)
    wanted = min(r * intensity, n - 1)
    nodes = np.arange(n)
    extra = rng.uniform(seed, "peers/extra", round, nodes) < wanted - int(wanted)
    counts = int(wanted) + extra.astype(np.int64)
    if among is not None:
        graph.add_edges_from(_draw_among(_base(among, n), counts, seed, round))
        return graph
    for place in range(int(counts.max(initial=0))):
        drawing = nodes[counts > place]
        # A place in a permutation of the others: no peer twice, without a list of
        # all of them.
        others = rng.permute(place, n - 1, seed, "peers", round, drawing)
        graph.add_edges_from(
            # Numbers from the node on move up by one, which leaves out the node
            # itself.
            zip((others + (others >= drawing)).tolist(), drawing.tolist(), strict=True)
        )
    return graph


@plugin(
    "topology",
    disconnected="connected only in expectation: a round is one set of pairs",
    doubly_stochastic=True,
)
def random_matchings(n: int, round: int, seed: int) -> nx.Graph[int]:
    """In every round everybody is paired with a random other, and the pairs
    average.

    E||x - mean||^2 shrinks by 1/2 - 1/(2(n - 1)) a round for even n; for odd n one
    node rests. (Boyd et al., "Randomized gossip algorithms", 2006, with all pairs
    at once.)

    Args:
        n: Number of nodes.
        round: Round, counted from 0.
        seed: Seed of the run.

    >>> random_matchings(9, 0, 1).number_of_edges()
    4
    """
    graph = nx.empty_graph(n)
    order = rng.permute(np.arange(n), n, seed, "matching", round).tolist()
    graph.add_edges_from(zip(order[: n // 2], order[n // 2 :], strict=False))
    return graph
