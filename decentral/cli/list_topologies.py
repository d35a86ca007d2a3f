"""All topologies on one number of nodes, side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rich.text import Text

from decentral.cli.console import console_of
from decentral.cli.words import MERGED, QUIET, columned, count
from decentral.errors import ConfigError
from decentral.mixing.base import Mixer, horizon, spectral_gap
from decentral.registry import build, find, names
from decentral.topology.base import STATISTICS_LIMIT, Topology, statistics


class Row(NamedTuple):
    """What a topology is like: nodes heard in a round at most, diameter, gap, in words."""

    name: str
    heard: int
    diameter: str
    gap: float
    speed: str


def show(nodes: int) -> None:
    """Print a table of the topologies, those with the fewest peers first, then the fastest."""
    if nodes > STATISTICS_LIMIT:
        raise ConfigError(
            f"--nodes {nodes}: the comparison computes eigenvalues, of at most {STATISTICS_LIMIT} "
            "nodes; look at one topology with `decentral show topology`."
        )
    rows: list[Row] = []
    without: list[str] = []
    for name in names("topology"):
        spelled = find("topology", name).traits.get("example", name)
        bound = build("topology", spelled)
        sizes = bound.plugin.traits.get("sizes")
        if sizes and not sizes.fits(nodes, bound.settings):
            without.append(f"{spelled} needs {sizes.words}")
        else:
            rows.append(_row(spelled, Topology(bound, nodes)))
    _print(nodes, sorted(rows, key=lambda row: (row.heard, -row.gap, row.name)), without)


def _row(name: str, topology: Topology) -> Row:
    mixer = Mixer.make(topology)
    rounds = horizon(topology)
    sampled = [topology.links(r).receivers for r in range(rounds if topology.time_varying else 1)]
    heard = max(int(np.bincount(r, minlength=1).max()) for r in sampled)
    diameter = statistics(topology)["diameter"]
    gap = max(0.0, spectral_gap(mixer))
    exact = topology.exact_after if gap == 1.0 else None
    speed = f"exact in {count(exact, 'round')}" if exact else f"{gap:.3g}"
    kept = "" if mixer.doubly_stochastic else ", the mean drifts"
    return Row(name, heard, "-" if diameter is None else str(diameter), gap, speed + kept)


def _print(nodes: int, rows: list[Row], without: list[str]) -> None:
    console = console_of()
    table = columned()
    table.add_column(f"on {count(nodes, 'node')}", style="bold", overflow="fold")
    table.add_column("degree", justify="right")
    table.add_column("diameter", justify="right")
    table.add_column("spectral gap", style=MERGED)
    for row in rows:
        table.add_row(row.name, str(row.heard), row.diameter, row.speed)
    console.print(table)
    console.print()
    for line in without:
        console.print(Text(f"{line}.", QUIET))
    console.print(
        Text(
            "Degree: nodes that a node hears in a round, at most. Gap: the share of "
            "disagreement that a round removes. Settings are the defaults.",
            QUIET,
        )
    )
