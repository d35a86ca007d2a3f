"""Before training: which topology, schedule and local steps fit a network and a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rich.table import Table
from rich.text import Text

from decentral.cli.settings import config_of
from decentral.cli.show_network import nodes_of, size_of
from decentral.cli.words import MERGED, QUIET, SENT, brief, columned, console_of, count
from decentral.config import Config
from decentral.mixing.base import Mixer
from decentral.network import presets
from decentral.network.clock import Clock
from decentral.network.forecast import Forecast, forecast, forecast_all_reduce
from decentral.network.links import Network
from decentral.network.planning import Conversation, all_reduce_messages
from decentral.registry import Bound, build
from decentral.report.facts import relative_text
from decentral.schedules.communication import CommunicationSchedule
from decentral.topology.base import Topology
from decentral.units import format_bytes, format_seconds, parse_seconds

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


def show(
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
    with console.status("replaying conversations"):
        plans = sorted(
            _plans(config, network, rule, size, *asked, local_steps),
            key=lambda plan: (plan.forecast.seconds, plan.forecast.bytes),
        )
    heading = f"{count(config.steps, 'step')} on {count(nodes, 'node')} over {brief(rule)}"
    console.print(Text.assemble((heading, "bold"), f", a model of {format_bytes(size)}"))
    console.print()
    console.print(_table(plans, config, size, limit_s))
    console.print()
    console.print(Text("every: local steps of a slot; share: of the bytes of all-reduce", QUIET))
    if limit_s is not None:
        console.print(_advice(plans, limit_s, deadline or ""))


def _plans(
    config: Config, network: Network, rule: Bound, size: float, topologies: Sequence[str],
    schedules: Sequence[str], local_steps: Sequence[int],
) -> Iterator[Plan]:  # fmt: skip
    """Yield what every combination takes, and the baseline."""
    compute, kind = build("compute", config.compute), rule.common["all_reduce"]

    def clock() -> Clock:
        return Clock(network, compute, config.seed, kind)

    baseline = forecast_all_reduce(clock(), config.nodes, config.steps, size)
    yield Plan("all-reduce", "every step", None, baseline)
    silent = _conversation(config, "complete", "none(final_merge=true)", config.steps)
    yield Plan("none", "one merge", None, forecast(silent, clock(), size))
    for topology, schedule, every in product(topologies, schedules, local_steps):
        talk = _conversation(config, topology, schedule, every)
        name, when = brief(talk.mixer.topology.rule), schedule
        yield Plan(name, when, every, forecast(talk, clock(), size))


def _conversation(config: Config, topology: Any, schedule: Any, every: int) -> Conversation:
    graph = Topology(build("topology", topology), config.nodes, config.seed)
    rule = CommunicationSchedule.make(schedule)
    return Conversation(Mixer.make(graph, config.weights), rule, config.steps, every)


def _table(plans: Sequence[Plan], config: Config, size: float, limit_s: float | None) -> Table:
    reference = all_reduce_messages(config.nodes, config.steps) * size
    table = columned(gap=2)
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
    """Name the plan that talks most among those that are in time."""
    timely = [plan for plan in plans if plan.forecast.seconds <= limit_s]
    if not timely:
        best = plans[0]
        steps = best.forecast.seconds / limit_s
        return (
            f"None ends within {deadline}: the fastest takes {steps:.3g} times as long. "
            "Take fewer steps, a smaller model, or faster links."
        )
    most = max(timely, key=lambda plan: plan.forecast.bytes)
    every = "" if most.local_steps is None else f" every {count(most.local_steps, 'step')}"
    return f"Within {deadline}, {most.topology}, {most.schedule}{every} talks most."
