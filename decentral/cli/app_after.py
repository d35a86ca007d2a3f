"""The commands about runs that were trained, and their flags; what they do is imported
when they are called.
"""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli import options as o

Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
]


def report(run: o.Run, quiet: o.Quiet = False, debug: o.Debug = False) -> None:
    """Write report.html into a run folder and print its path."""
    from decentral.cli import running

    running.report(run)


def compare(
    runs: Runs,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The page to write.")
    ] = "compare.html",
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Put runs side by side: a table here, their curves on a page."""
    from decentral.cli import several

    several.compare(runs, out)


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
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Merge the models of a run by several rules, and compare what comes out.

    The models are those of the newest checkpoint in which they differ.

      decentral merge runs/digits-ring-late-1 --rule uniform --rule fisher
    """
    from decentral.cli import models

    models.merge(run, rule or [], step, trust or ())


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
    json: o.Json = False,
    quiet: o.Quiet = False,
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
    nodes: Annotated[
        bool,
        typer.Option(
            "--all", help="Write every node's model, too, with files for mergekit."
        ),
    ] = False,
    trust: o.Trust = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write the merged model of a run so that it loads without decentral.

    A program for `torch.export.load("model.pt2").module()`, its state as
    safetensors, and for a model of transformers all that `from_pretrained`
    needs; adapters by peft.

      decentral export runs/digits-ring-late-1 --out model
    """
    from decentral.cli import models

    models.export(run, out, rule, nodes, trust or ())


def cite(
    run: o.Run, json: o.Json = False, quiet: o.Quiet = False, debug: o.Debug = False
) -> None:
    """Print BibTeX of what a run stands on: the program, its algorithm, its task, ...

    The sources are those that the plug-ins name; what names none is left out.

      decentral cite runs/digits-ring-late-1 > sources.bib
    """
    from decentral.cli import explaining

    explaining.cite(run)


def runs(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="The folder; else runs.")
    ] = "runs",
    settings: o.Settings = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """List the runs below a folder, finished or not; KEY=VALUE chooses among them.

    decentral runs runs topology=ring
    """
    from decentral.cli import several

    several.list_runs(folder, settings or [])


def serve(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="The folder; else runs.")
    ] = "runs",
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="The port; else one free."),
    ] = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show the runs below a folder in a browser, and how they go on as they train.

    For this machine alone, at the address that is printed; nothing is written. From
    another machine: `ssh -L PORT:127.0.0.1:PORT HOST`.

      decentral serve runs --port 8000
    """
    from decentral.cli import several

    several.serve(folder, port)


#: In the order of `decentral --help`.
COMMANDS = (runs, serve, report, compare, merge, analyze, export, cite)
