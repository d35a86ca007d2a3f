"""The commands and their flags; what they do is imported when they are called."""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli import app_models, app_plan
from decentral.cli import options as o
from decentral.cli.help import STYLE, Command, Group

app = typer.Typer(cls=Group, add_completion=False, **STYLE)
show = typer.Typer(
    cls=Group, help="Look at a topology, a schedule, a network or a model's blocks.", **STYLE
)

Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Its name, or file.py:name.", show_default=False)
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"decentral {version('decentral')}")
        except PackageNotFoundError:
            print("decentral, not installed: it runs from a folder")
        raise typer.Exit


@app.callback()
def decentral(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version)
    ] = False,
) -> None:
    """Train one model on many machines that talk little, and see when they should."""


@app.command(cls=Command)
def launch(
    context: typer.Context,
    words: o.Words = None,
    task: o.Task = None,
    model: o.Model = None,
    algorithm: o.Algorithm = None,
    optimizer: o.Optimizer = None,
    lr: o.Rate = None,
    split: o.Split = None,
    steps: o.Steps = None,
    nodes: o.Nodes = None,
    topology: o.Topology = None,
    schedule: o.Schedule = None,
    local_steps: o.LocalSteps = None,
    network: o.Network = None,
    compute: o.Compute = None,
    data: o.Data = None,
    batch_schedule: o.BatchSchedule = None,
    seed: o.Seed = None,
    eval_every: o.EvalEvery = None,
    device: o.Device = None,
    tune: o.Tune = False,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    out: o.Out = None,
    resume: o.Resume = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train one model on many nodes.

    Flags and KEY=VALUE win over CONFIG, a YAML file, and that over the defaults;
    `decentral list settings` shows them. Plug-ins take settings of their own:
    --schedule "late(start=80%)", or communication.start=80%. `decentral list`
    shows what there is.

      decentral launch --topology ring --schedule late
      decentral launch experiment.yaml --nodes 64 optimizer.momentum=0.5

    For a queue that starts it again: --out FOLDER --resume begins, goes on, or
    says that the run is finished.
    """
    from decentral.cli.settings import config_to_launch

    config = config_to_launch(words or [], o.given(context))
    from decentral.cli import running  # loads torch: what cannot be is refused before

    running.launch(config, resume=resume, json=json, quiet=quiet)


@app.command(cls=Command)
def resume(
    context: typer.Context,
    run: o.Run,
    words: o.Settings = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    change: o.Change = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Go on with an interrupted run, as if it had never stopped.

    Where it runs may change: engine, workers, address, and what else of
    KEY=VALUE stands under engine, such as engine.on_failure=continue. What makes
    the result changes only where --change names it: steps, data, batch,
    learning_rate, communication, or a file that has changed.

      decentral resume runs/digits-ring-late-1 --change steps=6000
    """
    from decentral.cli import running

    running.resume(run, words or [], o.given(context), change or [], json=json, quiet=quiet)


@app.command(cls=Command)
def report(run: o.Run, debug: o.Debug = False) -> None:
    """Write report.html into a run folder and print its path."""
    from decentral.cli import running

    running.report(run)


@app.command(cls=Command)
def compare(
    runs: Runs,
    out: Annotated[str, typer.Option(metavar="FILE", help="The page to write.")] = "compare.html",
    debug: o.Debug = False,
) -> None:
    """Put runs side by side: a table here, their curves on a page."""
    from decentral.cli import comparing

    comparing.compare(runs, out)


@app.command(cls=Command)
def reproduce(
    words: o.Claims = None,
    every: o.Every = False,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where runs, results and the page are kept.")
    ] = "claims",
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds to try.")] = "0,1,2",
    full: Annotated[bool, typer.Option("--full", help="At the size for a GPU.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Seeds at a time; else one per core."),
    ] = None,
    device: o.Device = None,
    debug: o.Debug = False,
) -> None:
    """Ask whether a paper's claim holds: a small honest experiment, and a verdict.

    Without a name it lists the claims. What was expected is written down
    beforehand. What is done is kept: trying again goes on where it stopped.

      decentral reproduce single-merge
      decentral reproduce --all --out claims
    """
    from decentral.cli import reproducing

    reproducing.reproduce(
        words or [], every=every, out=out, seeds=seeds, full=full, device=device, jobs=jobs
    )


@app.command(cls=Command)
def sweep(
    context: typer.Context,
    words: o.Words = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    out: o.SweepOut = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Run all combinations of some settings, each once, and put them in a table.

    KEY=A,B,C gives a setting several values, seed=0..4 five seeds; what differs
    only in its seed is one row, with mean and spread. CONFIG may hold such axes
    under `sweep:`. Called again, it runs what is missing or failed, nothing else.

      decentral sweep topology=ring,base_k schedule=late,early seed=0..2
      decentral sweep experiment.yaml learning_rate.lr=0.01,0.03,0.1
    """
    from decentral.cli import sweeping

    sweeping.sweep(words or [], o.given(context), quiet=quiet)


@app.command(cls=Command)
def init(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder, made if need be.", show_default=False)
    ],
    debug: o.Debug = False,
) -> None:
    """Write a configuration and a plug-in file to begin with.

    The plug-in file holds a topology and a schedule of your own; both run as they
    are. Nothing that exists is overwritten.
    """
    from decentral.cli import starting

    starting.init(folder)


for _command in (app_models.merge, app_models.analyze, app_models.export):
    app.command(cls=Command)(_command)


@show.command("topology", cls=Command)
def show_topology(
    context: typer.Context,
    name: Name,
    nodes: o.Nodes = None,
    weights: o.Weights = None,
    seed: o.Seed = None,
    png: o.Png = None,
    debug: o.Debug = False,
) -> None:
    """Draw who may talk to whom, and say how well it mixes."""
    from decentral.cli import show_topology

    show_topology.show({"topology": name, **o.given(context)}, png)


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
    debug: o.Debug = False,
) -> None:
    """Draw what a run does when, and count the bytes, before anything runs.

    NAME is a schedule, or a run's YAML file; KEY=VALUE adds phases, such as
    sam.start=75% or label_noise=0.1.
    """
    from decentral.cli import show_schedule

    show_schedule.show(name, settings or [], o.given(context), png)


@show.command("network", cls=Command)
def show_network(
    context: typer.Context,
    name: Name,
    nodes: o.Nodes = None,
    model_size: o.ModelSize = "25M",
    seed: o.Seed = None,
    debug: o.Debug = False,
) -> None:
    """Say what lies between nodes, and what a round over it takes."""
    from decentral.cli import show_network

    show_network.show({"network": name, **o.given(context)}, model_size)


@show.command("blocks", cls=Command)
def show_blocks(
    context: typer.Context,
    settings: o.Words = None,
    task: o.Task = None,
    model: o.Model = None,
    optimizer: o.Optimizer = None,
    debug: o.Debug = False,
) -> None:
    """Show which parameter belongs to which block, who updates it, and at which rate.

    Rates are those of --optimizer "adamw(blockwise=true)"; `muon` and its kin
    leave to AdamW what is no hidden matrix.

      decentral show blocks --model mlp --optimizer muon
    """
    from decentral.cli import show_blocks

    show_blocks.show(settings or [], o.given(context))


app.add_typer(show, name="show")


app.add_typer(app_plan.plan, name="plan")


@app.command("list", cls=Command)
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Such as topologies, or settings.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show all about one of them.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Compare the topologies on so many nodes."),
    ] = None,
    debug: o.Debug = False,
) -> None:
    """List what there is to choose from: topologies, tasks, settings, ..."""
    from decentral.cli import listing

    listing.show(kind, name, nodes)
