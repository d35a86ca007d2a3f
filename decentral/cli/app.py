"""The commands and their flags; what they do is imported when they are called."""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli import app_after, app_before
from decentral.cli import options as o
from decentral.cli.options import STYLE, Command, Group

app = typer.Typer(cls=Group, add_completion=False, **STYLE)


def _print_version(wanted: bool) -> None:
    if wanted:
        from decentral import __version__

        print(f"decentral {__version__}")
        raise typer.Exit


def _print_completion(shell: str | None) -> None:
    if shell is not None:
        print(o.completion_script(shell))
        raise typer.Exit


@app.callback()
def decentral(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version)
    ] = False,
    completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            help="Show what completes words in bash, zsh or fish.",
            callback=_print_completion,
        ),
    ] = None,
) -> None:
    """Train one model on many machines that communicate little, and see when.

    The exit status is 0 where all went well, 2 where what was asked cannot be, and
    1 where it failed on the way.
    """


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
    trust: o.Trust = None,
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

    config = config_to_launch(words or [], o.read_flags(context), trust or ())
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
    trust: o.Trust = None,
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

    running.resume(
        run,
        words or [],
        o.read_flags(context),
        change or [],
        json=json,
        quiet=quiet,
        trust=trust or (),
    )


@app.command(cls=Command)
def check(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]", help="A configuration, or a run folder.", show_default=False
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of configurations.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
    trust: o.Trust = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Say whether a configuration is right, or a run folder whole; nothing runs.

    Of a file all mistakes are listed, with their lines; of a folder every part.
    The status is 0, 2 for a wrong file, 1 for a broken folder.

      decentral check experiment.yaml
      decentral check runs/digits-ring-late-1
      decentral check --schema > decentral.schema.json
    """
    from decentral.cli import files

    files.check(path, json=json, schema=schema, trust=trust or ())


@app.command(cls=Command)
def reproduce(
    words: o.Claims = None,
    every: o.Every = False,
    out: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Where runs, results and the page are kept."),
    ] = "claims",
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="Seeds to try: three from 0 on, six where long."
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="small: minutes; long: hours on a core; gpu."),
    ] = "small",
    full: Annotated[bool, typer.Option("--full", help="The same as --size gpu.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Seeds at a time; else one per core."),
    ] = None,
    device: o.Device = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Ask whether a paper's claim holds: a small honest experiment, and a verdict.

    Without a name it lists the claims. What was expected is written down
    beforehand. What is done is kept: trying again goes on where it stopped.

      decentral reproduce single-merge
      decentral reproduce --all --out claims
      decentral reproduce gradpower --size long
    """
    from decentral.cli import reproducing

    reproducing.reproduce(
        words or [],
        every=every,
        out=out,
        seeds=seeds,
        size="gpu" if full else size,
        device=device,
        jobs=jobs,
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
    trust: o.Trust = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Run all combinations of some settings, each once, and put them in a table.

    KEY=A,B,C gives a setting several values, seed=0..4 five seeds; what differs
    only in its seed is one row, with mean and spread. CONFIG may hold such axes
    under `sweep:`. Called again, it runs what is missing or failed, nothing else.

      decentral sweep topology=ring,base_k schedule=late,early seed=0..2
      decentral sweep experiment.yaml learning_rate.lr=0.01,0.03,0.1
    """
    from decentral.cli import several

    flags = o.read_flags(context)
    several.sweep(words or [], flags, quiet=quiet, trust=trust or ())


@app.command(cls=Command)
def init(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="A folder, made if need be.", show_default=False
        ),
    ],
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a configuration and a plug-in file to begin with.

    The plug-in file holds a topology and a schedule of your own; both run as they
    are. Nothing that exists is overwritten.
    """
    from decentral.cli import files

    files.init(folder)


for each in app_after.COMMANDS:
    app.command(cls=Command)(each)
app.add_typer(app_before.show, name="show")
app.add_typer(app_before.plan, name="plan")


@app.command(cls=Command)
def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD...]",
            help="Such as gossip, ring or local_steps; or a page, and a section of it.",
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Say what a word means: a concept, a plug-in or a setting; or show a page of the
    documentation, or a section of one.

    decentral explain spectral gap

    decentral explain trouble bad-nodes
    """
    from decentral.cli import explaining

    explaining.explain(" ".join(words or ()))


@app.command("list", cls=Command)
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="Such as topologies, or settings."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show all about one of them.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Compare the topologies on so many nodes."),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """List what there is to choose from: topologies, tasks, settings, ..."""
    from decentral.cli import listing

    listing.show(kind, name, nodes)
