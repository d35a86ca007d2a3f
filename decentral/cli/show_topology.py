"""Topologies in the terminal: one drawn, with what matters about it, or all side by
side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from decentral.cli.output import Sketch, console_of, print_json, save
from decentral.cli.settings import config_of
from decentral.cli.words import (
    MERGED,
    QUIET,
    brief,
    count,
    facts,
    make_columns,
)
from decentral.errors import ConfigError
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap, summary_line
from decentral.registry import build, members
from decentral.report import reader
from decentral.report.drawing import positions
from decentral.topology.base import STATISTICS_LIMIT, Topology, horizon, statistics
from decentral.topology.labels import are_numbers
from decentral.traits import TopologyTraits, traits_of

#: Characters of the drawing; a character is twice as high as wide.
WIDTH, HEIGHT = 36, 17
#: Nodes up to which ids are written, and up to which a node has a mark of its own.
LABELLED, MARKED = 32, 128

#: Labels listed.
MOST_LABELS = 200
#: Links drawn; of more, a sample.
MOST_LINKS = 400

_AT_INTENSITY = {
    "link": "each link is on with probability p",
    "round": "a whole round is on with probability p",
    "degree": "p times as many peers are drawn",
}

#: What is written under a drawing.
_CAPTION = ("degree", "diameter", "spectral gap")


def show(settings: Mapping[str, str], png: str | None) -> None:
    """Draw a topology on the terminal and, if asked, into a PNG file."""
    config = config_of([], settings)
    topology = Topology(build("topology", config.topology), config.nodes, config.seed)
    mixer = Mixer.make(topology, config.weights)
    topology = mixer.topology
    picture = _picture(topology)
    console = console_of()
    heading = f"{brief(topology.rule)} on {count(config.nodes, 'node')}"
    console.print(Text(heading, "bold"))
    console.print()
    if line := summary_line(mixer):
        console.print(Text(line))
        console.print()
    table = _table(topology, mixer)
    console.print(_beside(console, _draw(picture), facts(table)))
    if not topology.time_varying and not are_numbers(topology.labels):
        console.print()
        console.print(_labels(topology.labels))
    print_json(
        {
            "topology": brief(topology.rule),
            "nodes": config.nodes,
            **statistics(topology),
            "weights": mixer.weights_name,
            "doubly_stochastic": mixer.doubly_stochastic,
            "spectral_gap": (
                spectral_gap(mixer) if topology.nodes <= STATISTICS_LIMIT else None
            ),
            "period": topology.period,
            "messages": mixer.expected_messages(1.0),
        }
    )
    if png:
        from decentral.report import figures

        named = ("degree", "diameter", "spectral gap")
        shown = [f"{key} {value}" for key, value in table if key in named]
        caption = f"{heading}\n{', '.join(shown)}"
        save(figures.network(picture), caption, png, console)


def _picture(topology: Topology) -> reader.Topology:
    graph = topology.union()
    links = tuple((int(a), int(b)) for a, b in graph.edges())
    return reader.Topology(
        topology.nodes, links, graph.is_directed(), topology.time_varying
    )


def _beside(
    console: Console, left: RenderableType, right: RenderableType
) -> RenderableType:
    # Below each other where both do not fit on a line.
    if console.width < WIDTH + 36:
        return Group(left, "", right)
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_row(left, right)
    return grid


def _draw(picture: reader.Topology) -> Text:
    """Draw nodes and links; of very many links, a sample."""
    points = positions(picture)
    low, high = points.min(0), points.max(0)
    # One scale for both directions, or circles would be drawn as ellipses.
    points = 0.5 + (points - (low + high) / 2) / max(1e-9, *(high - low)) * 0.94
    sketch = Sketch(WIDTH, HEIGHT)
    for a, b in picture.links[:: -(-len(picture.links) // MOST_LINKS) or 1]:
        sketch.line(tuple(points[a]), tuple(points[b]))
    for node in range(picture.nodes if picture.nodes <= MARKED else 0):
        label = str(node) if picture.nodes <= LABELLED else "•"
        sketch.label(tuple(points[node]), label)
    return Text("\n").join(
        Text("").join(Text(char, MERGED if mark else QUIET) for char, mark in row)
        for row in sketch.rows()
    )


def _table(topology: Topology, mixer: Mixer) -> list[tuple[str, Text | str]]:
    found = statistics(topology)
    low, high = found["degree_min"], found["degree_max"]
    degree = (
        f"{low}" if low == high else f"{low} to {high}, mean {found['degree_mean']:.3g}"
    )
    directed = topology.links(0).directed
    kept = (
        "doubly stochastic"
        if mixer.doubly_stochastic
        else "row-stochastic: the mean drifts"
    )
    rows: list[tuple[str, Text | str]] = [
        ("links", f"{found['links']:,}" + (", directed" if directed else "")),
        ("degree", degree + (", in and out" if directed else "")),
        ("diameter", _or_unknown(found["diameter"], topology)),
        ("weights", f"{mixer.weights_name}, {kept}"),
        ("spectral gap", _gap(topology, mixer)),
        ("messages", f"{mixer.expected_messages(1.0):,.6g} in a full round"),
        ("intensity p", _AT_INTENSITY[topology.activation]),
    ]
    if topology.time_varying:
        rows.insert(0, ("changes", _changes(topology)))
    return rows


def _labels(labels: Sequence[str]) -> Text:
    """List nodes by number with what the graph calls them."""
    shown = [f"{node} {label}" for node, label in enumerate(labels[:MOST_LABELS])]
    more = len(labels) - len(shown)
    rest = f"; {more:,} more, which topology.json of a run lists" if more else ""
    return Text("labels: ", QUIET) + Text("; ".join(shown) + rest)


def _or_unknown(diameter: Any, topology: Topology) -> str:
    if diameter is not None:
        return str(diameter)
    return "unknown" if topology.nodes > STATISTICS_LIMIT else "infinite in one round"


def _gap(topology: Topology, mixer: Mixer) -> str:
    if topology.nodes > STATISTICS_LIMIT:
        return f"not computed beyond {STATISTICS_LIMIT:,} nodes"
    gap = spectral_gap(mixer)
    if gap >= 1.0:
        rounds = topology.exact_after or topology.period
        return f"1: exact in {count(rounds, 'round')}"
    rounds = horizon(topology)
    return f"{gap:.3g}" + (f", over {rounds} rounds" if rounds > 1 else "")


def _changes(topology: Topology) -> str:
    if topology.period > 1:
        return f"every round, period {topology.period} (drawn: all)"
    return "every round (drawn: one)"


# --- all side by side -------------------------------------------------------------


class Row(NamedTuple):
    """What a topology is like: nodes received from in a round at most, diameter,
    gap, in words.
    """

    name: str
    degree: int
    diameter: str
    gap: float
    speed: str


def compare(nodes: int) -> None:
    """Print a table of the topologies, those with the fewest peers first, then the
    fastest.
    """
    if nodes > STATISTICS_LIMIT:
        raise ConfigError(
            f"--nodes {nodes}: the comparison computes eigenvalues, of at most {STATISTICS_LIMIT} "
            "nodes; look at one topology with `decentral show topology`."
        )
    rows: list[Row] = []
    usable, broken = members("topology")
    without = [reason.rstrip(".") for reason in broken.values()]
    for found in usable:
        spelled = str(found.traits.example or found.name)
        bound = build("topology", spelled)
        sizes = traits_of(bound, TopologyTraits).sizes
        if sizes and not sizes.fits(nodes, bound.settings):
            without.append(f"{spelled} needs {sizes.words}")
            continue
        try:
            rows.append(_compare(spelled, Topology(bound, nodes)))
        except ConfigError as error:  # one of another package
            without.append(str(error).rstrip("."))
    _print_comparison(
        nodes, sorted(rows, key=lambda row: (row.degree, -row.gap, row.name)), without
    )


def _compare(name: str, topology: Topology) -> Row:
    mixer = Mixer.make(topology)
    rounds = horizon(topology)
    sampled = [
        topology.links(r).receivers for r in range(rounds if topology.time_varying else 1)
    ]
    degree = max(int(np.bincount(r, minlength=1).max()) for r in sampled)
    diameter = statistics(topology)["diameter"]
    gap = max(0.0, spectral_gap(mixer))
    exact = topology.exact_after if gap == 1.0 else None
    speed = f"exact in {count(exact, 'round')}" if exact else f"{gap:.3g}"
    kept = "" if mixer.doubly_stochastic else ", the mean drifts"
    return Row(
        name, degree, "-" if diameter is None else str(diameter), gap, speed + kept
    )


def _print_comparison(nodes: int, rows: list[Row], without: list[str]) -> None:
    console = console_of()
    table = make_columns()
    table.add_column(f"on {count(nodes, 'node')}", style="bold", overflow="fold")
    table.add_column("degree", justify="right")
    table.add_column("diameter", justify="right")
    table.add_column("spectral gap", style=MERGED)
    for row in rows:
        table.add_row(row.name, str(row.degree), row.diameter, row.speed)
    console.print(table)
    console.print()
    for line in without:
        console.print(Text(f"{line}.", QUIET))
    console.print(
        Text(
            "Degree: nodes that a node receives from in a round, at most. Gap: the share of "
            "disagreement that a round removes. Settings are the defaults.",
            QUIET,
        )
    )
    print_json([row._asdict() for row in rows])
