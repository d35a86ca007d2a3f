"""The commands that look ahead, before anything runs, and their flags: show and
plan.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from decentral.cli import options as o
from decentral.cli.options import STYLE, Command, Group

show = typer.Typer(
    cls=Group,
    help="Look at a topology, a schedule, a network or a model's blocks.",
    **STYLE,
)
plan = typer.Typer(cls=Group, help="Choose what a run does, before it runs.", **STYLE)

# --- show -------------------------------------------------------------------------

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Its name, or file.py:name.", show_default=False),
]


@show.command("topology", cls=Command)
def show_topology(
    context: typer.Context,
    name: Name,
    nodes: o.Nodes = None,
    weights: o.Weights = None,
    seed: o.Seed = None,
    png: o.Png = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Draw who may send to whom, and say how well it mixes."""
    from decentral.cli import show_topology

    show_topology.show({"topology": name, **o.read_flags(context)}, png)


@show.command("schedule", cls=Command)
def show_schedule(
    context: typer.Context,
    name: Name,
    settings: o.Settings = None,
    topology: o.Topology = None,
    nodes: o.Nodes = None,
    steps: o.Steps = None,
    data: o.Data = None,
    batch_schedule: o.BatchSchedule = None,
    local_steps: o.LocalSteps = None,
    task: o.Task = None,
    model: o.Model = None,
    seed: o.Seed = None,
    png: o.Png = None,
    trust: o.Trust = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Draw what a run does when, and count the bytes, before anything runs.

    NAME is a schedule, or a run's YAML file; KEY=VALUE adds phases, such as
    sam.start=75% or label_noise=0.1.
    """
    from decentral.cli import show_schedule

    flags = o.read_flags(context)
    show_schedule.show(name, settings or [], flags, png, trust or ())


@show.command("network", cls=Command)
def show_network(
    context: typer.Context,
    name: Name,
    algorithm: o.Algorithm = None,
    compute: o.Compute = None,
    nodes: o.Nodes = None,
    model_size: o.ModelSize = "25M",
    seed: o.Seed = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Say what lies between nodes, and what a round over it takes; or, of an algorithm
    that goes event by event, what 50 steps take and how much is in flight.
    """
    from decentral.cli import networks

    networks.show({"network": name, **o.read_flags(context)}, model_size)


@show.command("blocks", cls=Command)
def show_blocks(
    context: typer.Context,
    settings: o.Words = None,
    task: o.Task = None,
    model: o.Model = None,
    optimizer: o.Optimizer = None,
    trust: o.Trust = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show which parameter belongs to which block, who updates it, and at which
    rate.

    Rates are those of --optimizer "adamw(blockwise=true)"; `muon` and its kin
    leave to AdamW what is no hidden matrix.

      decentral show blocks --model mlp --optimizer muon
    """
    from decentral.cli import models

    models.blocks(settings or [], o.read_flags(context), trust or ())


# --- plan -------------------------------------------------------------------------

_LAW, _BOUNDS, _RUNS = "A task by its law", "What may be used", "A task by its runs"


def _flag(panel: str, metavar: str, help: str, *names: str) -> Any:
    """Declare one flag."""
    option: Any = typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False
    )
    return option


Budget = Annotated[
    str, _flag(_BOUNDS, "AMOUNT", "Samples of all nodes: 1M, 2^20, 60k/node.")
]
Least = Annotated[
    int | None, _flag(_BOUNDS, "N", "Smallest batch per node, else 1.", "--min")
]
Most = Annotated[
    int | None, _flag(_BOUNDS, "N", "Largest batch per node, else any.", "--max")
]
Nodes = Annotated[int | None, _flag(_BOUNDS, "N", "Nodes that share the data, else 1.")]
Source = Annotated[float | None, _flag(_LAW, "S", "Source s > 0; small for a hard task.")]
Capacity = Annotated[float | None, _flag(_LAW, "BETA", "Capacity beta > 1.")]
Noise = Annotated[float, _flag(_LAW, "X", "Variance of the noise of labels, else 1.")]
Rate = Annotated[
    float, _flag(_LAW, "X", "Learning rate, else 0.25; stable below 2.", "--lr")
]
From = Annotated[
    list[str] | None,
    _flag(_RUNS, "RUN...", "Fit runs with constant batches first.", "--from"),
]
Out = Annotated[
    str | None, _flag("What is shown", "FILE", "Write a configuration to train by.")
]


@plan.command("communication", cls=Command)
def plan_communication(
    context: typer.Context,
    topology: o.Topologies = None,
    schedule: o.Schedules = None,
    local_steps: o.LocalSteps = None,
    algorithm: o.Algorithm = None,
    nodes: o.Nodes = None,
    steps: o.Steps = None,
    network: o.Network = "lan",
    compute: o.Compute = None,
    model_size: o.ModelSize = "25M",
    deadline: o.Deadline = None,
    seed: o.Seed = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Rank topologies, schedules and local steps by seconds and bytes.

    Rounds are replayed on a network, or all events of an asynchronous --algorithm;
    nothing is trained.

      decentral plan communication --network home --compute 50ms --deadline 2h
    """
    from decentral.cli import networks

    networks.plan(
        o.read_flags(context), topology or [], schedule or [], model_size, deadline
    )


@plan.command("batch", cls=Command)
def plan_batch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="More runs to fit.", show_default=False),
    ] = None,
    budget: Budget = "1M",
    least: Least = None,
    most: Most = None,
    source: Source = None,
    capacity: Capacity = None,
    noise: Noise = 1.0,
    lr: Rate = 0.25,
    nodes: Nodes = None,
    from_: From = None,
    png: o.Png = None,
    out: Out = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compute the batch schedule with the least loss for a budget of data.

    Either from the difficulty of the task, --source and --capacity, or from runs
    of one's own with constant batches, which are fitted first.

      decentral plan batch --source 0.25 --capacity 2 --budget 2^20 --min 8
      decentral plan batch --from runs/small runs/large --budget 60k --out p.yaml
    """
    from decentral.cli import plan_batch

    runs = [*(from_ or []), *(runs or [])]
    law = {
        "source": source,
        "capacity": capacity,
        "noise": noise,
        "lr": lr,
        "nodes": nodes,
    }
    bounds = {"budget": budget, "min": least, "max": most}
    plan_batch.show({**bounds, **({} if runs else law)}, runs, png, out)
