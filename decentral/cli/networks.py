"""What a network makes of a run: what lies between nodes, what a round takes, which
plan fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from decentral.cli import replaying
from decentral.cli.output import console_of, print_json
from decentral.cli.settings import config_of
from decentral.cli.words import (
    MERGED,
    QUIET,
    SENT,
    brief,
    count,
    facts,
    make_columns,
)
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.mixing.base import Mixer
from decentral.network import presets
from decentral.network.clock import Clock, Forecast, forecast, forecast_all_reduce
from decentral.network.links import Floats, Network, ring_s, tree_s
from decentral.network.planning import RoundPlanner, all_reduce_messages
from decentral.registry import ConfiguredPlugin, build
from decentral.report.facts import relative_text
from decentral.schedules.action import CommunicationSchedule
from decentral.topology.base import Topology
from decentral.topology.labels import all_ids
from decentral.units import (
    format_bandwidth,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
)

# --- show network -----------------------------------------------------------------


#: Topologies whose rounds are timed.
SHOWN = ("ring", "one_peer_exponential", "exponential", "star", "complete")
#: Bytes of one parameter.
_FLOAT = 4
#: Steps that are replayed of an asynchronous algorithm.
_STEPS = 50


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
    if replaying.is_asynchronous(settings.get("algorithm")):
        _show_events({**settings, "nodes": nodes}, network, rule, size)
        return
    timed = list(_rounds(network, config.seed, size, _own(config.network)))
    console.print(_rounds_table(timed, size))
    keys = ("topology", "messages", "seconds")
    rounds = [dict(zip(keys, row, strict=True)) for row in timed]
    print_json({"network": brief(rule), "nodes": nodes, "bytes": size, "rounds": rounds})


def _show_events(
    settings: Mapping[str, Any], network: Network, rule: ConfiguredPlugin, size: float
) -> None:
    """Print what a number of steps of an asynchronous algorithm take.

    Args:
        settings: Settings of the runs.
        network: What lies between nodes.
        rule: What made it.
        size: Bytes of a model.
    """
    names = replaying.topologies_of(settings["algorithm"], [*_own(rule.spec()), *SHOWN])
    given = {"compute": "20ms", **settings, "steps": _STEPS}
    ways = [(name, "constant", replaying.local_steps_of(given)) for name in names]
    found = replaying.replays(given, ways, size)
    console = console_of()
    console.print(
        Text.assemble((f"{_STEPS} steps of every node", "bold"),
                      f" on average, a model of {format_bytes(size)}")
    )  # fmt: skip
    console.print()
    console.print(replaying.replay_table(found, size, network.nodes, None))
    print_json({"network": brief(rule), "nodes": network.nodes, "bytes": size, "steps": _STEPS,
                "runs": replaying.records(found, size, None)})  # fmt: skip


def nodes_of(settings: Mapping[str, str]) -> int:
    """Return the number of nodes: as asked, else those of a network file, else the
    default.
    """
    own = None if "nodes" in settings else presets.nodes_of(settings["network"])
    return own or config_of([], settings).nodes


def size_of(text: str) -> float:
    """Return the bytes of a model written as ``25M`` parameters, of four bytes, or
    as ``100MB``.
    """
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


def _rounds_table(timed: Sequence[tuple[str, float, float]], size: float) -> Table:
    """Lay out what rounds take."""
    table = make_columns()
    table.add_column(f"a model of {format_bytes(size)}", overflow="fold")
    table.add_column("messages", justify="right")
    table.add_column("one round", justify="right", no_wrap=True)
    for label, messages, seconds in timed:
        whole = isinstance(messages, int)
        said = f"{messages:,}" if whole else f"{messages:,.4g}"
        table.add_row(label, said, Text(format_seconds(seconds), MERGED))
    return table


def _rounds(
    network: Network, seed: int, size: float, own: Sequence[str]
) -> Iterator[tuple[str, float, float]]:
    """Yield messages and seconds of one round over each topology, and of an
    all-reduce.

    Args:
        network: The network.
        seed: Seed of the topologies.
        size: Bytes of a model.
        own: The network's own file as a topology, if it is one.
    """
    for name in (*own, *SHOWN):
        topology = Topology(build("topology", name), network.nodes, seed)
        label = "its own links" if name in own else name
        messages, seconds = _round(Mixer.make(topology), network, size)
        yield label, messages, seconds
    everybody, messages = (
        np.arange(network.nodes),
        all_reduce_messages(network.nodes, steps=1),
    )
    for label, way in (("all-reduce, a ring", ring_s), ("all-reduce, a tree", tree_s)):
        seconds = way(network, everybody, size) if network.nodes > 1 else 0.0
        yield label, messages, seconds


def _round(mixer: Mixer, network: Network, size: float) -> tuple[float, float]:
    """Return messages and seconds of one round that all begin together, the mean of
    a period.
    """
    period, seconds = mixer.topology.period, 0.0
    for round in range(period):
        clock = Clock(network, None)
        clock.gossip(mixer.mixing(round), size, all_ids(network.nodes))
        seconds += clock.now_s(all_ids(network.nodes)) / period
    return mixer.full_messages, seconds


# --- plan communication -----------------------------------------------------------


#: What is tried where nothing is named.
TOPOLOGIES = ("ring", "one_peer_exponential", "exponential", "complete")
SCHEDULES = ("late", "constant")
LOCAL_STEPS = (1, 10, 100)


@dataclass(frozen=True)
class Plan:
    """One way to communicate, and what it takes."""

    topology: str
    schedule: str
    local_steps: int | None
    forecast: Forecast


def plan(
    settings: Mapping[str, str], topologies: Sequence[str], schedules: Sequence[str],
    model_size: str, deadline: str | None,
) -> None:  # fmt: skip
    """Print every way to communicate, the fastest first.

    Args:
        settings: Settings of the runs.
        topologies: Topologies to compare.
        schedules: Schedules to compare.
        model_size: Parameters of the model, such as ``25M``.
        deadline: Seconds within which a run has to end.
    """
    nodes, size = nodes_of(settings), size_of(model_size)
    limit_s = None if deadline is None else parse_seconds(deadline, "deadline")
    config = config_of([], {"compute": "20ms", **settings, "nodes": str(nodes)})
    network, rule = presets.make(config.network, nodes)
    asked = (topologies or TOPOLOGIES, schedules or SCHEDULES)
    local_steps = (config.local_steps,) if "local_steps" in settings else LOCAL_STEPS
    console = console_of()
    algorithm = settings.get("algorithm")
    if replaying.is_asynchronous(algorithm):
        names = topologies or replaying.topologies_of(algorithm or "", TOPOLOGIES)
        given = {"compute": "20ms", **settings, "nodes": nodes}
        ways = [*product(names, asked[1], local_steps)]
        _plan_events(given, ways, size, limit_s, deadline)
        return
    with console.status("replaying schedules"):
        plans = sorted(
            _plans(config, network, rule, size, *asked, local_steps),
            key=lambda plan: (plan.forecast.seconds, plan.forecast.bytes),
        )
    heading = (
        f"{count(config.steps, 'step')} on {count(nodes, 'node')} over {brief(rule)}"
    )
    console.print(Text.assemble((heading, "bold"), f", a model of {format_bytes(size)}"))
    console.print()
    console.print(_table(plans, config, size, limit_s))
    console.print()
    legend = "every: local steps between rounds; share: of the bytes of all-reduce"
    console.print(Text(legend, QUIET))
    if limit_s is not None:
        console.print(_advice(plans, limit_s, deadline or ""))
    print_json([_as_row(one, limit_s) for one in plans])


def _as_row(plan: Plan, limit_s: float | None) -> dict[str, Any]:
    """Return a plan as other programs read it."""
    return {
        "topology": plan.topology,
        "schedule": plan.schedule,
        "local_steps": plan.local_steps,
        "seconds": plan.forecast.seconds,
        "bytes": plan.forecast.bytes,
        "in_time": None if limit_s is None else plan.forecast.seconds <= limit_s,
    }


def _plan_events(
    settings: Mapping[str, Any], ways: Sequence[tuple[str, Any, int]], size: float,
    limit_s: float | None, deadline: str | None,
) -> None:  # fmt: skip
    """Print what runs of an asynchronous algorithm take, the fastest first.

    Args:
        settings: What the runs have in common.
        ways: Topology, schedule and local steps of each.
        size: Bytes of a model.
        limit_s: Seconds within which a run has to end.
        deadline: The same as it was written.
    """
    console = console_of()
    with console.status("replaying events"):
        found = replaying.replays(settings, ways, size)
    steps = config_of([], {k: str(v) for k, v in settings.items()}).steps
    nodes = settings["nodes"]
    heading = (
        f"{count(steps, 'step')} of {settings['algorithm']} on {count(nodes, 'node')}"
    )
    console.print(Text.assemble((heading, "bold"), f", a model of {format_bytes(size)}"))
    console.print()
    console.print(replaying.replay_table(found, size, nodes, limit_s))
    console.print()
    note = "every: local steps; in flight: most of models between nodes at once"
    scaled = any(one.scaled for one in found)
    console.print(Text(note + "; ~: as the first steps say" * scaled, QUIET))
    if limit_s is not None:
        forecasts = [
            Plan(one.topology, one.schedule, one.local_steps,
                 Forecast(one.seconds, one.bytes, steps // one.local_steps))
            for one in found
        ]  # fmt: skip
        console.print(_advice(forecasts, limit_s, deadline or ""))
    print_json(replaying.records(found, size, limit_s))


def _plans(
    config: Config, network: Network, rule: ConfiguredPlugin, size: float,
    topologies: Sequence[str], schedules: Sequence[str], local_steps: Sequence[int],
) -> Iterator[Plan]:  # fmt: skip
    """Yield what every combination takes, and the baseline."""
    compute, kind = build("compute", config.compute), rule.common["all_reduce"]

    # A clock goes on counting: every plan has one of its own, and all draw the same
    # computing times, so that plans differ by their communication alone.
    def clock() -> Clock:
        return Clock(network, compute, config.seed, kind)

    baseline = forecast_all_reduce(clock(), config.nodes, config.steps, size)
    yield Plan("all-reduce", "every step", None, baseline)
    silent = _planner(config, "complete", "none(final_merge=true)", config.steps)
    yield Plan("none", "one merge", None, forecast(silent, clock(), size))
    for topology, schedule, every in product(topologies, schedules, local_steps):
        planner = _planner(config, topology, schedule, every)
        name, when = brief(planner.mixer.topology.rule), schedule
        yield Plan(name, when, every, forecast(planner, clock(), size))


def _planner(config: Config, topology: Any, schedule: Any, every: int) -> RoundPlanner:
    graph = Topology(build("topology", topology), config.nodes, config.seed)
    rule = CommunicationSchedule.make(schedule)
    return RoundPlanner(Mixer.make(graph, config.weights), rule, config.steps, every)


def _table(
    plans: Sequence[Plan], config: Config, size: float, limit_s: float | None
) -> Table:
    reference = all_reduce_messages(config.nodes, config.steps) * size
    table = make_columns(gap=2)
    table.add_column("topology", overflow="fold")
    table.add_column("schedule", overflow="fold")
    for head in ("every", "time", "per node", "share"):
        table.add_column(head, justify="right", no_wrap=head == "time")
    if limit_s is not None:
        table.add_column("in time", justify="right")
    for plan in plans:
        sent, seconds = plan.forecast.bytes, plan.forecast.seconds
        late = limit_s is not None and seconds > limit_s
        cells = [
            plan.topology,
            plan.schedule,
            "" if plan.local_steps is None else str(plan.local_steps),
            Text(format_seconds(seconds), QUIET if late else MERGED),
            Text(format_bytes(sent / config.nodes), SENT),
            relative_text(sent / reference) if reference else "",
        ]
        table.add_row(*cells, *([] if limit_s is None else ["no" if late else "yes"]))
    return table


def _advice(plans: Sequence[Plan], limit_s: float, deadline: str) -> str:
    """Name the plan that communicates most among those that are in time."""
    timely = [plan for plan in plans if plan.forecast.seconds <= limit_s]
    if not timely:
        best = plans[0]
        steps = best.forecast.seconds / limit_s
        return (
            f"None ends within {deadline}: the fastest takes {steps:.3g} times as long. "
            "Take fewer steps, a smaller model, or faster links."
        )
    most = max(timely, key=lambda plan: plan.forecast.bytes)
    every = (
        "" if most.local_steps is None else f" every {count(most.local_steps, 'step')}"
    )
    return (
        f"Within {deadline}, {most.topology}, {most.schedule}{every} communicates most."
    )
