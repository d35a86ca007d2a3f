"""What asynchronous algorithms make of a network: runs replayed event by event, with
models of any size in flight and next to nothing to be trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from decentral.cli.words import MERGED, QUIET, SENT, brief, make_columns
from decentral.config import make_config
from decentral.errors import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.network.planning import all_reduce_messages
from decentral.registry import build
from decentral.simulation import Simulation
from decentral.topology.labels import all_ids
from decentral.traits import AlgorithmTraits, traits_of
from decentral.units import format_bytes, format_seconds

#: Updates that are replayed; of a longer run the first ones stand for all.
_UPDATES = 20_000
#: A model that can be cut into fragments, at a rate at which it stays what it is.
_TINY: dict[str, Any] = {
    "task": "quadratic(dimension=120)", "learning_rate": 1e-12, "batch": 1, "threads": 1,
    "optimizer": "sgd(momentum=0, weight_decay=0)", "replicas": "auto",
}  # fmt: skip


@dataclass(frozen=True)
class Replay:
    """What a run event by event takes; ``held`` is the most models that were under way
    at the end of a step of all, ``scaled`` whether its first steps stand for all.
    """

    topology: str
    schedule: str
    local_steps: int
    seconds: float
    bytes: float
    idle: float
    held: int
    scaled: bool


def is_asynchronous(algorithm: str | None) -> bool:
    """Whether an algorithm that was asked for goes event by event; none was: it does
    not.

    Raises:
        ConfigError: It is one of rounds, which are planned without an algorithm.
    """
    if algorithm is None:
        return False
    rule = build("algorithm", algorithm)
    if traits_of(rule, AlgorithmTraits).time == "events":
        return True
    if rule.settings.get("wait") == "neighbours":
        return True
    raise ConfigError(
        f"algorithm {rule.name!r} goes in rounds, which are planned as they are for dsgd: leave "
        "--algorithm out, or name one that goes event by event, such as swift."
    )


def topologies_of(algorithm: str, usual: Sequence[str]) -> Sequence[str]:
    """Return what an algorithm can be replayed on: of a server only a star, of others
    topologies that stay.
    """
    if traits_of(build("algorithm", algorithm), AlgorithmTraits).server:
        return ("star",)
    return [name for name in usual if name != "one_peer_exponential"]


def local_steps_of(settings: Mapping[str, Any]) -> int:
    """Return the local steps that an algorithm has of its own."""
    return make_config({**_TINY, **settings}).local_steps


def replay(settings: Mapping[str, Any], size: float) -> Replay:
    """Return what a run takes, by letting it happen.

    Args:
        settings: Algorithm, topology, communication, network and so on.
        size: Bytes of a model.
    """
    config = make_config({**_TINY, **settings})
    most = max(config.local_steps, _UPDATES // config.nodes)
    steps = min(config.steps, most)
    setup = prepare(config.model_copy(update={"steps": steps}))
    assert setup.planner is not None
    block = Block(setup, LocalExchange(config.nodes), lambda *_: None)
    simulation = Simulation(block, size=size)
    held, idle, half_s, half = 0, 0.0, 0.0, steps // 2
    for step in range(1, steps + 1):
        # While the last messages arrive all are idle: that is the end, not the run.
        idle = simulation.figures()["simulation/idle"]
        simulation.advance()
        held = max(held, simulation.count_held())
        half_s = simulation.now_s if step == half else half_s
    everybody = all_ids(config.nodes)
    # What is under way at the end has arrived by then, once in a run of any length.
    beyond = (config.steps - steps) / max(1, steps - half)
    seconds = simulation.now_s + beyond * (simulation.now_s - half_s)
    sent = block.stats.bytes * config.steps / steps
    if setup.planner.final_merge() is not None:
        clock = setup.clock()
        clock.average(everybody, size)
        seconds += clock.now_s(everybody)
        sent += all_reduce_messages(config.nodes, steps=1) * size
    return Replay(
        brief(setup.parts["topology"]),
        brief(setup.planner.schedule.rule),
        config.local_steps,
        seconds,
        sent,
        idle,
        held,
        steps < config.steps,
    )


def replays(
    settings: Mapping[str, Any], ways: Sequence[tuple[str, Any, int]], size: float
) -> list[Replay]:
    """Return what every way to communicate takes, the fastest first.

    Args:
        settings: What all have in common.
        ways: Topology, communication schedule and local steps of each.
        size: Bytes of a model.
    """
    found = [
        replay(
            {**settings, "topology": t, "communication": c, "local_steps": every}, size
        )
        for t, c, every in ways
    ]
    return sorted(found, key=lambda one: (one.seconds, one.bytes))


def replay_table(
    found: Sequence[Replay], size: float, nodes: int, limit_s: float | None
) -> Table:
    """Lay out what runs take.

    Args:
        found: The runs.
        size: Bytes of a model.
        nodes: Number of nodes.
        limit_s: Seconds within which a run has to end, if any.
    """
    table = make_columns(gap=2)
    table.add_column("topology", overflow="fold")
    table.add_column("schedule", overflow="fold")
    for head in ("every", "time", "idle", "per node", "in flight"):
        table.add_column(head, justify="right", no_wrap=head == "time")
    if limit_s is not None:
        table.add_column("in time", justify="right")
    for one in found:
        late = limit_s is not None and one.seconds > limit_s
        about = "~" if one.scaled else ""
        cells = [
            one.topology,
            one.schedule,
            str(one.local_steps),
            Text(about + format_seconds(one.seconds), QUIET if late else MERGED),
            f"{one.idle:.0%}",
            Text(format_bytes(one.bytes / nodes), SENT),
            format_bytes(one.held * size),
        ]
        table.add_row(*cells, *([] if limit_s is None else ["no" if late else "yes"]))
    return table


def records(
    found: Sequence[Replay], size: float, limit_s: float | None
) -> list[dict[str, Any]]:
    """Return the same for a program.

    Args:
        found: The runs.
        size: Bytes of a model.
        limit_s: Seconds within which a run has to end, if any.
    """
    return [
        {
            "topology": one.topology,
            "schedule": one.schedule,
            "local_steps": one.local_steps,
            "seconds": one.seconds,
            "bytes": one.bytes,
            "idle": one.idle,
            "in_flight_bytes": one.held * size,
            "in_time": None if limit_s is None else one.seconds <= limit_s,
        }
        for one in found
    ]
