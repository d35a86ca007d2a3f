"""A network in the terminal: what lies between nodes, and what a round over it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from decentral.cli.settings import config_of
from decentral.cli.words import MERGED, brief, columned, console_of, count, facts
from decentral.errors import ConfigError
from decentral.mixing.base import Mixer
from decentral.network import presets
from decentral.network.clock import Clock
from decentral.network.links import Floats, Network, ring_s, tree_s
from decentral.network.planning import all_reduce_messages
from decentral.registry import build
from decentral.topology.base import Topology
from decentral.units import (
    format_bandwidth,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_count,
)

#: Topologies whose rounds are timed.
SHOWN = ("ring", "one_peer_exponential", "exponential", "star", "complete")
#: Bytes of one parameter.
_FLOAT = 4


def show(settings: Mapping[str, str], model_size: str) -> None:
    """Print a network, and the time of one round per topology."""
    nodes = nodes_of(settings)
    config = config_of([], {**settings, "nodes": str(nodes)})
    network, rule = presets.make(config.network, nodes)
    size = size_of(model_size)
    console = console_of()
    console.print(Text(f"{brief(rule)} between {count(nodes, 'node')}", "bold"))
    console.print()
    console.print(facts(_facts(network)))
    console.print()
    console.print(_rounds(network, config.seed, size, _own(config.network)))


def nodes_of(settings: Mapping[str, str]) -> int:
    """Return the number of nodes: as asked, else those of a network file, else the default."""
    own = None if "nodes" in settings else presets.nodes_of(settings["network"])
    return own or config_of([], settings).nodes


def size_of(text: str) -> float:
    """Return the bytes of a model written as ``25M`` parameters, of four bytes, or as ``100MB``."""
    try:
        size = _FLOAT * parse_count(text, "model size")
    except ConfigError:
        size = parse_bytes(text, "model size")
    if not size:
        raise ConfigError(f"model size: {text!r} is nothing; write it like 25M or 100MB.")
    return size


def _own(network: object) -> list[str]:
    """Return a network's own file as a topology, where it is one."""
    return [build("network", network).name] if presets.nodes_of(network) else []


def _facts(network: Network) -> list[tuple[str, Text | str]]:
    one, other = np.nonzero(~np.eye(network.nodes, dtype=bool))
    latency_s, bandwidth_Bps = network.cost(one, other)
    used = len(np.unique(network.site))
    rows: list[tuple[str, Text | str]] = [
        ("sites", "one" if used == 1 else f"{used}"),
        ("latency", _span(latency_s, format_seconds) + ", one way"),
        ("bandwidth", _span(bandwidth_Bps, format_bandwidth) + " on a link"),
        ("a node's", f"{_span(network.up_Bps, format_bandwidth)} up, "
         f"{_span(network.down_Bps, format_bandwidth)} down"),
    ]  # fmt: skip
    return rows


def _span(values: Floats, write: Callable[[float], str]) -> str:
    """Write the least and the greatest of some values."""
    if not len(values):
        return "none"
    ends = [float(values.min()), float(values.max())]
    written = ["unlimited" if np.isinf(end) else write(end) for end in ends]
    return written[0] if written[0] == written[1] else f"{written[0]} to {written[1]}"


def _rounds(network: Network, seed: int, size: float, own: Sequence[str]) -> Table:
    """Say what one round takes over each topology, and what an all-reduce takes."""
    table = columned()
    table.add_column(f"a model of {format_bytes(size)}", overflow="fold")
    table.add_column("messages", justify="right")
    table.add_column("one round", justify="right", no_wrap=True)
    for name in (*own, *SHOWN):
        topology = Topology(build("topology", name), network.nodes, seed)
        label = "its own links" if name in own else name
        messages, seconds = _round(Mixer.make(topology), network, size)
        table.add_row(label, f"{messages:,.4g}", Text(format_seconds(seconds), MERGED))
    everybody, messages = np.arange(network.nodes), all_reduce_messages(network.nodes, steps=1)
    for label, way in (("all-reduce, a ring", ring_s), ("all-reduce, a tree", tree_s)):
        seconds = way(network, everybody, size) if network.nodes > 1 else 0.0
        table.add_row(label, f"{messages:,}", Text(format_seconds(seconds), MERGED))
    return table


def _round(mixer: Mixer, network: Network, size: float) -> tuple[float, float]:
    """Return messages and seconds of one round that all begin together, the mean of a period."""
    period, seconds = mixer.topology.period, 0.0
    for round in range(period):
        clock = Clock(network, None)
        clock.gossip(mixer.mixing(round), size, range(network.nodes))
        seconds += clock.now_s(range(network.nodes)) / period
    return mixer.full_messages, seconds
