"""The commands and their flags; what they do is imported when they are called."""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli import app_before
from decentral.cli import options as o
from decentral.cli.options import STYLE, Command, Group

app = typer.Typer(cls=Group, add_completion=False, **STYLE)

Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
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
    """Train one model on many machines that communicate little, and see when."""


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
def report(run: o.Run, debug: o.Debug = False) -> None:
    """Write report.html into a run folder and print its path."""
    from decentral.cli import running

    running.report(run)


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
def compare(
    runs: Runs,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The page to write.")
    ] = "compare.html",
    debug: o.Debug = False,
) -> None:
    """Put runs side by side: a table here, their curves on a page."""
    from decentral.cli import several

    several.compare(runs, out)


@app.command(cls=Command)
def reproduce(
    words: o.Claims = None,
    every: o.Every = False,
    out: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Where runs, results and the page are kept."),
    ] = "claims",
    seeds: Annotated[
        str, typer.Option(metavar="N,N,...", help="Seeds to try.")
    ] = "0,1,2",
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
        words or [],
        every=every,
        out=out,
        seeds=seeds,
        full=full,
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
    debug: o.Debug = False,
) -> None:
    """Write a configuration and a plug-in file to begin with.

    The plug-in file holds a topology and a schedule of your own; both run as they
    are. Nothing that exists is overwritten.
    """
    from decentral.cli import files

    files.init(folder)


@app.command(cls=Command)
def merge(
    run: o.Run,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A merge rule; may be given several times."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(metavar="N", help="The checkpoint of this step.")
    ] = None,
    trust: o.Trust = None,
    debug: o.Debug = False,
) -> None:
    """Merge the models of a run by several rules, and compare what comes out.

    The models are those of the newest checkpoint in which they differ.

      decentral merge runs/digits-ring-late-1 --rule uniform --rule fisher
    """
    from decentral.cli import models

    models.merge(run, rule or [], step, trust or ())


@app.command(cls=Command)
def analyze(
    run: o.Run,
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where page and picture go; else into RUN."),
    ] = None,
    pairs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pairs of nodes to look between.")
    ] = 8,
    points: Annotated[
        int, typer.Option(metavar="N", min=3, help="Points along a side of a plane.")
    ] = 25,
    samples: Annotated[
        int, typer.Option(metavar="N", min=2, help="Samples for lines and planes.")
    ] = 1024,
    step: Annotated[
        int | None, typer.Option(metavar="N", help="The checkpoint of this step.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Seed of pairs, samples and directions."),
    ] = 0,
    trust: o.Trust = None,
    debug: o.Debug = False,
) -> None:
    """Measure how mergeable the models of a run are, in depth.

    Barriers between nodes and to the merged model, loss on two planes, curvature,
    and what layers, updates and gradients have in common: a table here, pictures
    on a page. Models are those of the newest checkpoint in which they differ.

      decentral analyze runs/digits-ring-late-1 --pairs 16
    """
    from decentral.cli import models

    extent = {
        "pairs": pairs,
        "points": points,
        "samples": samples,
        "at": step,
        "seed": seed,
        "trust": trust or (),
    }
    models.analyze(run, out, extent)


@app.command(cls=Command)
def export(
    run: o.Run,
    out: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="A new folder for the model.", show_default=False
        ),
    ],
    rule: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Merge the models by this rule instead."),
    ] = None,
    trust: o.Trust = None,
    debug: o.Debug = False,
) -> None:
    """Write the merged model of a run so that it loads without decentral.

    A program for `torch.export.load("model.pt2").module()`, its state as
    safetensors, and for a model of transformers all that
    `AutoModelForCausalLM.from_pretrained` needs.

      decentral export runs/digits-ring-late-1 --out model
    """
    from decentral.cli import models

    models.export(run, out, rule, trust or ())


app.add_typer(app_before.show, name="show")
app.add_typer(app_before.plan, name="plan")


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
    debug: o.Debug = False,
) -> None:
    """List what there is to choose from: topologies, tasks, settings, ..."""
    from decentral.cli import listing

    listing.show(kind, name, nodes)
