"""The commands that choose what a run does before it runs, and their flags: plan."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from decentral.cli import options as o
from decentral.cli.help import STYLE, Command, Group

plan = typer.Typer(cls=Group, help="Choose what a run does, before it runs.", **STYLE)

_LAW, _BOUNDS, _RUNS = "A task by its law", "What may be used", "A task by its runs"


def _flag(panel: str, metavar: str, help: str, *names: str) -> Any:
    """Declare one flag."""
    option: Any = typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False
    )
    return option


Budget = Annotated[str, _flag(_BOUNDS, "AMOUNT", "Samples of all nodes: 1M, 2^20, 60k/node.")]
Least = Annotated[int | None, _flag(_BOUNDS, "N", "Smallest batch per node, else 1.", "--min")]
Most = Annotated[int | None, _flag(_BOUNDS, "N", "Largest batch per node, else any.", "--max")]
Nodes = Annotated[int | None, _flag(_BOUNDS, "N", "Nodes that share the data, else 1.")]
Source = Annotated[float | None, _flag(_LAW, "S", "Source s > 0; small for a hard task.")]
Capacity = Annotated[float | None, _flag(_LAW, "BETA", "Capacity beta > 1.")]
Noise = Annotated[float, _flag(_LAW, "X", "Variance of the noise of labels, else 1.")]
Rate = Annotated[float, _flag(_LAW, "X", "Learning rate, else 0.25; stable below 2.", "--lr")]
From = Annotated[
    list[str] | None, _flag(_RUNS, "RUN...", "Fit runs with constant batches first.", "--from")
]
Out = Annotated[str | None, _flag("What is shown", "FILE", "Write a configuration to train by.")]


@plan.command("communication", cls=Command)
def plan_communication(
    context: typer.Context,
    topology: o.Topologies = None,
    schedule: o.Schedules = None,
    local_steps: o.LocalSteps = None,
    nodes: o.Nodes = None,
    steps: o.Steps = None,
    network: o.Network = "lan",
    compute: o.Compute = None,
    model_size: o.ModelSize = "25M",
    deadline: o.Deadline = None,
    seed: o.Seed = None,
    debug: o.Debug = False,
) -> None:
    """Rank topologies, schedules and local steps by seconds and bytes.

    Conversations are replayed on a network; nothing is trained.

      decentral plan communication --network home --compute 50ms --deadline 2h
    """
    from decentral.cli import plan_communication

    plan_communication.show(o.given(context), topology or [], schedule or [], model_size, deadline)


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
    law = {"source": source, "capacity": capacity, "noise": noise, "lr": lr, "nodes": nodes}
    bounds = {"budget": budget, "min": least, "max": most}
    plan_batch.show({**bounds, **({} if runs else law)}, runs, png, out)
