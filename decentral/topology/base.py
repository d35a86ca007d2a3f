"""Who may send to whom: a topology is a function that returns a ``networkx`` graph
on nodes 0..n-1.

A topology function takes, by name, any of ``n`` (nodes), ``round`` (makes it
time-varying), ``seed`` (a 64-bit integer for its own draws) and ``intensity`` (only
with ``activation="degree"``). Edges may carry ``weight`` (prescribed mixing),
``latency_s`` and ``bandwidth_Bps``. In a directed graph an edge u -> v means that v
receives from u. Of parallel links in a multigraph the better cable stays
(``topology.parallel``), independently of their order; their weights must agree.
Nodes that are called otherwise are numbered (``topology.labels``), and keep what
they were called as ``label``.

What a topology promises stands in ``traits.TopologyTraits``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.plugins import describe, label_of, wrong
from decentral.registry import ConfiguredPlugin, Plugin
from decentral.topology.files.assemble import simplify
from decentral.topology.labels import labels_of, number_nodes
from decentral.topology.outside import from_file, from_networkx, from_topohub
from decentral.traits import Sizes, TopologyTraits, traits_of

Integers = NDArray[np.int64]

#: Nodes above which exact graph statistics (diameter, spectral gap) are not
#: computed.
STATISTICS_LIMIT = 2048
#: What a binary number of fixed length counts.
POWER_OF_2 = Sizes(lambda n, settings: n & (n - 1) == 0, "a power of 2")


@dataclass(frozen=True)
class Links:
    """The directed links of one round: ``receivers[k]`` receives from
    ``senders[k]``.
    """

    receivers: Integers  # [links]
    senders: Integers  # [links]
    # [links], prescribed by the graph (NaN: no number)
    weights: NDArray[np.float64] | None
    directed: bool

    def keep(self, mask: NDArray[np.bool_]) -> Links:
        """Return only the links where ``mask`` is true."""
        weights = None if self.weights is None else self.weights[mask]
        return Links(self.receivers[mask], self.senders[mask], weights, self.directed)

    def __len__(self) -> int:
        """Return the number of directed links."""
        return len(self.receivers)


@dataclass
class Topology:
    """A topology plug-in at work on ``nodes`` nodes: graphs and links as functions
    of the round.
    """

    rule: ConfiguredPlugin
    nodes: int
    seed: int = 0
    epoch: int = 0
    weighted: bool = True  # whether weights that the graph prescribes count
    _static: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def __post_init__(self) -> None:
        """Draw the first graph once, so that mistakes show before anything runs."""
        if sizes := self.traits.sizes:
            sizes.check(self.rule.name, self.nodes, self.rule.settings)
        first = self.graph(0)
        # A single round of a sequence need not connect everybody.
        excused = self.time_varying or self.traits.disconnected
        if not excused and (count := _components(first)) > 1:
            raise ConfigError(
                f"{label_of(self.rule)} is disconnected on {self.nodes} nodes "
                f"({count} parts); add links or choose another topology."
            )

    @cached_property
    def traits(self) -> TopologyTraits:
        """What the rule promises."""
        return traits_of(self.rule, TopologyTraits)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the arguments that the function takes from the run."""
        return self.rule.plugin.positional()

    @cached_property
    def time_varying(self) -> bool:
        """Whether the graph depends on the round."""
        return "round" in self.parameters

    @cached_property
    def activation(self) -> str:
        """What an intensity below 1 acts on: ``link``, ``round`` or ``degree``."""
        links = self.links(0)
        # Single links that are off would leave directed or prescribed weights
        # unbalanced; whole rounds keep them as they are.
        inferred = "round" if links.directed or links.weights is not None else "link"
        return self.traits.activation or inferred

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What the graph calls its nodes, by number: their numbers, where it says
        nothing.
        """
        return labels_of(self.graph(0))

    @property
    def period(self) -> int:
        """Rounds after which the sequence of graphs repeats (1 when static or
        without a period).
        """
        rule = self.traits.period
        return max(1, int(rule(self.nodes, self.rule.settings))) if rule else 1

    @property
    def exact_after(self) -> int | None:
        """Rounds from the start of a period until mixing has averaged exactly, or
        None.
        """
        rule = self.traits.exact_after
        return rule(self.nodes, self.rule.settings) if rule else None

    def graph(self, round: int, intensity: float = 1.0) -> nx.Graph[int]:
        """Return the graph of one round: labels 0..n-1, no self-loops, no parallel
        edges.
        """
        if not self.time_varying and "graph" in self._static:
            return self._static["graph"]
        offered = {
            "n": self.nodes,
            "round": round,
            "seed": rng.key(self.seed, f"topology/{self.epoch}"),
            "intensity": intensity,
        }
        missing = [name for name in self.parameters if name not in offered]
        if missing:
            raise ConfigError(
                f"{label_of(self.rule)} asks the run for {missing[0]!r}; "
                f"a topology may ask for {', '.join(offered)}; settings are keyword-only."
            )
        drawn = self.rule(*(offered[name] for name in self.parameters))
        graph = _check_graph(drawn, self.nodes, self.rule)
        # Graphs of single rounds are not kept: there may be thousands of them.
        return graph if self.time_varying else self._static.setdefault("graph", graph)

    def links(self, round: int, intensity: float = 1.0) -> Links:
        """Return the directed links of one round as arrays, sorted by receiver,
        then sender.
        """
        if self.time_varying:
            return self._without_unit_weights(_links(self.graph(round, intensity)))
        if "links" not in self._static:
            self._static["links"] = self._without_unit_weights(_links(self.graph(round)))
        return self._static["links"]

    def _without_unit_weights(self, links: Links) -> Links:
        return links if self.weighted else replace(links, weights=None)

    def without_weights(self) -> Topology:
        """Return the topology without the weights that its graph prescribes."""
        return replace(
            self,
            weighted=False,
            _static={k: v for k, v in self._static.items() if k == "graph"},
        )

    def union(self) -> nx.Graph[int]:
        """Return the graph of all links of one period."""
        graphs = [self.graph(r) for r in range(self.period)]
        return graphs[0] if len(graphs) == 1 else nx.compose_all(graphs)


def _components(graph: nx.Graph[int]) -> int:
    """Count the parts of a graph whose nodes cannot all reach each other."""
    if isinstance(graph, nx.DiGraph):
        return nx.number_strongly_connected_components(graph)
    return nx.number_connected_components(graph)


def _check_graph(graph: Any, nodes: int, rule: ConfiguredPlugin) -> nx.Graph[int]:
    if not isinstance(graph, nx.Graph):
        raise wrong(rule, describe(graph), f"a networkx graph of {nodes} nodes")
    single = simplify(graph)
    # A copy: what a plug-in has returned may be a graph that it keeps.
    simple = nx.DiGraph(single) if single.is_directed() else nx.Graph(single)
    simple.remove_edges_from(list(nx.selfloop_edges(simple)))
    if simple.number_of_nodes() != nodes:
        raise ConfigError(
            f"{label_of(rule)} has {simple.number_of_nodes()} nodes, the run has {nodes}; "
            f"set nodes to {simple.number_of_nodes()} or change the topology."
        )
    return number_nodes(simple)


def _links(graph: nx.Graph[int]) -> Links:
    directed = graph.is_directed()
    edges = np.array(list(graph.edges()), dtype=np.int64).reshape(-1, 2)
    weights = [data.get("weight") for _, _, data in graph.edges(data=True)]
    given = any(weight is not None for weight in weights)
    prescribed = np.array([number(weight) for weight in weights]) if given else None
    senders, receivers = edges[:, 0], edges[:, 1]
    if not directed:
        senders, receivers = (
            np.concatenate((senders, receivers)),
            np.concatenate((receivers, senders)),
        )
        prescribed = (
            None if prescribed is None else np.concatenate((prescribed, prescribed))
        )
    # The order of a graph's edges depends on how it was built, sums must not.
    order = np.lexsort((senders, receivers))
    weights_sorted = None if prescribed is None else prescribed[order]
    return Links(receivers[order], senders[order], weights_sorted, directed)


def number(weight: Any) -> float:
    """Return a weight as a number, NaN for what is none: text, nothing, a
    ``Disagreement``.
    """
    return float(weight) if isinstance(weight, int | float | np.number) else float("nan")


def statistics(topology: Topology) -> dict[str, Any]:
    """Return links, degrees and diameter of one period's union graph (None where
    too large).
    """
    graph = topology.union()
    degrees = [d for _, d in graph.degree()]
    small = topology.nodes <= STATISTICS_LIMIT
    # Breadth-first search from every node: n times the number of links.
    diameter = nx.diameter(graph) if small and _components(graph) == 1 else None
    return {
        "links": graph.number_of_edges(),
        "degree_min": min(degrees),
        "degree_max": max(degrees),
        "degree_mean": sum(degrees) / len(degrees),
        "diameter": diameter,
    }


def resolve(name: str) -> Plugin | None:
    """Find topologies outside the folder: ``nx:generator``, graph files,
    ``topohub:network``.
    """
    return from_networkx(name) or from_topohub(name) or from_file(name)


#: Rounds of a sequence without a period by which its mixing is judged.
_SAMPLED_ROUNDS = 20


def horizon(topology: Topology) -> int:
    """Return the rounds over which a topology's mixing is judged.

    One period, or 20 rounds where the sequence has none. A static undirected graph
    needs a single round; a directed one log2 n, since W may be far from symmetric
    and then shows its power late.
    """
    if topology.time_varying:
        periodic = traits_of(topology.rule, TopologyTraits).period is not None
        return topology.period if periodic else _SAMPLED_ROUNDS
    return max(1, (topology.nodes - 1).bit_length()) if topology.links(0).directed else 1
