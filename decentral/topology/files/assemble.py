"""From what a file says to a graph: nodes numbered, quantities read, parallel links
decided.

The facts about the file are kept with the graph. Of parallel links of a multigraph
one rule says what stays, whatever their order.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import inf
from operator import itemgetter
from typing import Any

import networkx as nx

from decentral.errors import ConfigError
from decentral.topology.files.content import WEIGHT, Content, is_number
from decentral.topology.labels import LABEL, in_order, label_text
from decentral.units import parse_bandwidth, parse_seconds

# --- what was read ----------------------------------------------------------------


#: Where a graph keeps the facts about its file, and a node the weight of its own
#: row, if a file tells it.
FILE, OWN_WEIGHT = "file", "own_weight"

Span = tuple[float, float]


@dataclass(frozen=True)
class GraphFile:
    """Counts and ranges of a graph file, as it was read."""

    name: str
    form: str
    nodes: int
    links: int  # that are left
    directed: bool
    parallel: int  # links beside a better one between the same nodes
    loops: int  # links from a node to itself
    weights: Span | None = None
    ended: bool = True  # whether the last line has an end; a file that was cut has none
    ones: bool = False  # whether every link has the weight 1, which says nothing
    latency_s: Span | None = None
    bandwidth_Bps: Span | None = None
    lines: Mapping[tuple[int, int], int] = field(
        default_factory=dict[tuple[int, int], int]
    )

    def line(self, one: int, other: int) -> int | None:
        """Return the line of the link between two nodes, if it has a weight and the
        file lines.
        """
        found = self.lines.get((one, other))
        return found or (None if self.directed else self.lines.get((other, one)))

    def plain(self) -> dict[str, Any]:
        """Return the facts in the types of JSON."""
        found = {key: value for key, value in vars(self).items() if key != "lines"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}  # pyright: ignore


def file_of(graph: Any) -> GraphFile | None:
    """Return the facts about the file that a graph was read from, if it was."""
    found = graph.graph.get(FILE)
    return found if isinstance(found, GraphFile) else None


# --- parallel links ---------------------------------------------------------------


class Disagreement:
    """Mixing weights of parallel links that differ: none of them is the weight of
    the link.
    """

    def __init__(self, weights: Sequence[Any]) -> None:
        """Keep the weights as text, sorted."""
        self.weights = sorted({str(weight) for weight in weights})

    def __str__(self) -> str:
        """Name the weights."""
        return " and ".join(self.weights)


def simplify(graph: Any) -> Any:
    """Return a graph in which the better cable stands for all parallel links, as a
    whole.

    That is the one of the highest ``bandwidth_Bps``, of equals the one of the
    lowest ``latency_s``; a cable that does not say either is worse than one that
    does. Attributes of two cables are never mixed; a ``weight`` stays where all
    cables agree on it, and is a ``Disagreement`` elsewhere.
    """
    if not graph.is_multigraph():
        return graph
    simple = nx.DiGraph() if graph.is_directed() else nx.Graph()
    simple.graph.update(graph.graph)
    simple.add_nodes_from(graph.nodes(data=True))
    cables: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for one, other, data in graph.edges(data=True):
        # networkx gives the ends of undirected links in the order in which they
        # were added.
        flipped = not graph.is_directed() and (other, one) in cables
        cables.setdefault((other, one) if flipped else (one, other), []).append(data)
    for (one, other), parallel in cables.items():
        best = dict(min(parallel, key=_rank) if len(parallel) > 1 else parallel[0])
        weights = [data.get("weight") for data in parallel]
        best.pop("weight", None)
        if any(weight != weights[0] for weight in weights[1:]):
            best["weight"] = Disagreement(weights)
        elif weights[0] is not None:
            best["weight"] = weights[0]
        simple.add_edge(one, other, **best)
    return simple


def _rank(cable: Mapping[str, Any]) -> tuple[float, float, str]:
    """Sort better cables first; what else they carry decides between equals."""
    # Any order will do, if only it does not depend on that of the file.
    rest = sorted((str(key), str(value)) for key, value in cable.items())
    return -cable.get("bandwidth_Bps", 0.0), cable.get("latency_s", inf), str(rest)


# --- the graph --------------------------------------------------------------------


#: What may be written of a link with a unit, and under which name it is kept.
_QUANTITIES = (
    ("latency", "latency_s", parse_seconds),
    ("bandwidth", "bandwidth_Bps", parse_bandwidth),
)
#: What is read of a link, beside the quantities whose name has a unit.
_READ = frozenset((WEIGHT, "latency", "latency_s", "bandwidth", "bandwidth_Bps"))
#: A unit in the name of what a link carries: ``Latency (ms)``, ``bandwidth_Mbps``.
_UNIT = re.compile(
    r"(?P<text>latency|bandwidth)\s*"
    r"(?:[(\[]\s*(?P<said>[^)\]]*?)\s*[)\]]|[ _-]\s*(?P<unit>[^\s()\[\]]+))",
    re.IGNORECASE,
)
#: Bits a second in one word, as networks have them: ``Mbps``, ``Gb/s``.
_RATE = re.compile(r"(?P<scale>[kKMGT]?)(?:bps|b/s|bit/s)")
#: A link in one of the ways that it goes: from, to, and what it carries.
Way = tuple[int, int, dict[str, Any]]
#: Where a node's label stands, the first one that says something.
_LABELS = ("label", "name")


def graph_of(content: Content, name: str) -> Any:
    """Return the graph on nodes 0..n-1 of what a file says; raises ConfigError for
    quantities.

    Args:
        content: What the file says.
        name: Of the file, for messages.
    """
    labels = {node: _label(node, data) for node, data in content.nodes.items()}
    place = {node: k for k, node in enumerate(_order_nodes(content, labels))}
    # A single one-way link makes the graph directed: the others then count in both
    # ways.
    directed = any(link.directed for link in content.links) or (
        content.directed and not content.links
    )
    ways, lines = _read_links(content, place, labels, name, directed)
    graph: Any = _empty(ways, directed)
    graph.graph.update(content.about)
    graph.add_nodes_from(
        (place[node], {**content.nodes[node], LABEL: labels[node]})
        for node in sorted(content.nodes, key=place.__getitem__)
    )
    graph.add_edges_from(ways)
    return _simple(graph, content, name, lines)


def _read_links(
    content: Content,
    place: Mapping[Hashable, int],
    labels: Mapping[Hashable, str],
    name: str,
    directed: bool,
) -> tuple[list[Way], dict[tuple[int, int], int]]:
    """Return every link in each way that it goes, and the lines of those with a
    weight.

    They come by the node that a graph of networkx tells them of, as its edges do.

    Args:
        content: What the file says.
        place: Number of each node.
        labels: Of each node, for messages.
        name: Of the file, for messages.
        directed: Whether the graph is.
    """
    ways: list[Way] = []
    lines: dict[tuple[int, int], int] = {}
    for link in content.links:
        one, other = place[link.one], place[link.other]
        data = link.data
        if any(map(_is_special, data)):
            where = f", line {link.line}" if link.line else ""
            between = f"{labels[link.one]}-{labels[link.other]}"
            data = _read_quantities(data, f"topology file {name}{where}, link {between}")
        both = directed and not link.directed and one != other
        if not directed and one > other:
            one, other = other, one
        ways.append((one, other, data))
        if both:
            ways.append((other, one, dict(data)))
        if WEIGHT in data and link.line:
            lines.setdefault((one, other), link.line)
            if both:
                lines.setdefault((other, one), link.line)
    return sorted(ways, key=itemgetter(0)), lines


def _empty(ways: Sequence[Way], directed: bool) -> Any:
    """Return a graph that can hold the links: of many only where some are
    parallel, since that one takes several times as long.
    """
    if len({way[:2] for way in ways}) == len(ways):
        return nx.DiGraph() if directed else nx.Graph()
    return nx.MultiDiGraph() if directed else nx.MultiGraph()


def _label(node: Hashable, data: dict[str, Any]) -> str:
    """Return what a file calls a node: its label or name, else its id."""
    said = (label_text(data[key]) for key in _LABELS if data.get(key) is not None)
    return next(filter(None, said), label_text(node))


def _order_nodes(content: Content, labels: dict[Hashable, str]) -> list[Hashable]:
    """Return the nodes by number: whole numbers ascend, labels before ids; else as
    in the file.
    """
    nodes = list(content.nodes)
    for names in ([labels[node] for node in nodes], [label_text(node) for node in nodes]):
        if (order := in_order(names)) is not None:
            return [nodes[k] for k in order]
    return nodes


@cache  # the keys of a file are few, and its links many
def _unit_in(key: object) -> tuple[str, str] | None:
    """Return the quantity and the unit that a key names: ``latency`` and ``ms`` for
    ``Latency (ms)``.

    What follows without brackets and is no unit (``latency_note``) is a key of its
    own.
    """
    named = _UNIT.fullmatch(key.strip()) if isinstance(key, str) else None
    if named is None or key in ("latency_s", "bandwidth_Bps"):
        return None
    text, said = named["text"].lower(), named["said"]
    unit = said if said is not None else named["unit"]
    if rate := _RATE.fullmatch(unit):
        unit = f"{rate['scale'].replace('K', 'k')}bit/s"
    elif unit.endswith("Bps"):
        unit = f"{unit[:-3]}B/s"
    parse = next(parse for known, _, parse in _QUANTITIES if known == text)
    try:
        parse(f"1 {unit}", "a link")
    except ConfigError:
        return None if said is None else (text, unit)
    return text, unit


def _is_special(key: object) -> bool:
    """Whether a link's key is read; all others are kept as they are written."""
    return key in _READ or _unit_in(key) is not None


def _without_units(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a link carries, with units beside numbers rather than in names."""
    found = dict(data)
    for key in data:
        if (named := _unit_in(key)) and named[0] not in data:
            text, unit = named
            value = found.pop(key)
            bare = value is not None and is_number(str(value))
            found[text] = f"{value} {unit}" if bare else value
    return found


def _read_quantities(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what a link carries, with quantities as numbers."""
    found = _without_units(data)
    for text, key, parse in _QUANTITIES:
        if text in found or key in found:
            found[key] = parse(found.pop(text, found.get(key)), f"{where}: {text}")
    if isinstance(weight := found.get(WEIGHT), str):
        with suppress(ValueError):
            found[WEIGHT] = float(weight)
    elif weight is None:
        found.pop(WEIGHT, None)
    return found


def _simple(
    graph: Any, content: Content, name: str, lines: dict[tuple[int, int], int]
) -> Any:
    """Return the graph without loops and parallel links, with the facts about what
    was read.

    Args:
        graph: The multigraph of all links.
        content: What the file says.
        name: Of the file.
        lines: Of links with a weight.
    """
    weights = [data.get(WEIGHT) for _, _, data in graph.edges(data=True)]
    ones = bool(weights) and all(type(w) in (int, float) and w == 1 for w in weights)
    if ones:
        for _, _, data in graph.edges(data=True):
            del data[WEIGHT]
    loops = list(nx.selfloop_edges(graph, data=True))
    for node, _, data in loops:
        if WEIGHT in data:
            graph.nodes[node][OWN_WEIGHT] = data[WEIGHT]
    parallel = graph.is_multigraph()
    own = nx.selfloop_edges(graph, keys=True) if parallel else nx.selfloop_edges(graph)
    graph.remove_edges_from(list(own))
    simple = simplify(graph)
    carried = [data for _, _, data in simple.edges(data=True)]
    spans = {key: _span(carried, key) for key in (WEIGHT, "latency_s", "bandwidth_Bps")}
    simple.graph[FILE] = GraphFile(
        name=name,
        form=content.form,
        nodes=len(simple),
        links=simple.number_of_edges(),
        directed=simple.is_directed(),
        parallel=graph.number_of_edges() - simple.number_of_edges(),
        loops=len(loops),
        ended=content.ended,
        weights=spans["weight"],
        ones=ones,
        latency_s=spans["latency_s"],
        bandwidth_Bps=spans["bandwidth_Bps"],
        lines=lines,
    )
    return simple


def _span(carried: Sequence[Mapping[str, Any]], key: str) -> Span | None:
    """Return the least and the greatest number that links carry under a key."""
    found = [data[key] for data in carried if key in data]
    numbers = [float(value) for value in found if isinstance(value, int | float)]
    return (min(numbers), max(numbers)) if numbers else None
