"""Runs that begin, and runs that go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from decentral.api.display import display_of
from decentral.api.run import Run, parts_of
from decentral.api.starting import begin, restart
from decentral.config import (
    make_config,
    read_settings,
    refuse_doubled,
    resolve_aliases,
)
from decentral.config.schema import Again, Changes, Settings
from decentral.engines.base import EngineRun
from decentral.limits import named_folder
from decentral.trust import Given, Trust

#: Called with every record of metrics that is logged.
Watch = Callable[[dict[str, Any]], None]


def launch(
    config: str | Path | None = None,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    quiet: bool = False,
    trust: Given = False,
    **settings: Unpack[Settings],
) -> Run:
    """Train one model on many nodes and return the finished run.

    Plug-ins may be given as text, mappings or Python objects: a function for a
    topology or schedule, a ``Task``, a function that builds a model.

    Args:
        config: A YAML file of settings.
        resume: Go on with the unfinished run of the same configuration that ``out``
            holds, if it holds one; a finished one is returned as it is.
        watch: Called with every logged record.
        quiet: Show nothing: neither notes nor, in a terminal or a notebook, how far
            it is.
        trust: Digests of code that ``config`` names and that is not your own, as the
            refusal shows them; True for all of it.
        settings: The same names as in YAML (``nodes=8``,
            ``communication="late(start=80%)"``); they win over it.

    >>> run = launch(task="quadratic", nodes=4, steps=20, out="runs/doc")
    >>> run.summary["counters"]["comm/rounds"]
    21
    """
    allowed = Trust.of(trust, settings)
    layers = [read_settings(config, trust=allowed)] if config is not None else []
    # None stands for an argument that was not given, as functions that pass them on
    # do.
    given = resolve_aliases(
        {key: value for key, value in settings.items() if value is not None}
    )
    refuse_doubled(given)
    made = make_config(*layers, given)
    run = begin(made, resume=resume)
    if isinstance(run, Path):
        return Run(run, given, trust=allowed)
    return _train(run, given, watch, quiet)


def _train(
    run: EngineRun, given: Mapping[str, Any], watch: Watch | None, quiet: bool
) -> Run:
    # What it names has just run, be it recorded or not.
    own = Trust.of(False, run.settings)
    done = Run(run.folder.path, resolve_aliases(given), trust=own)
    if quiet:
        run.say = lambda text: None
    for note in run.setup.notes:
        run.say(note)
    with display_of(run, quiet) as display:

        def tell(record: dict[str, Any]) -> None:
            display(record)
            if watch:
                watch(record)

        run.run(tell)
    done.report()
    return done


def resume(
    path: str | Path | Run,
    *,
    change: Changes | Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    quiet: bool = False,
    trust: Given = False,
    **objects: Unpack[Again],
) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is as if
    it never stopped.

    One that ended before its first checkpoint begins again.

    Args:
        path: The run folder, or the run, which brings its parts from Python along.
        change: What is to be otherwise from now on, such as ``{"steps": 6000}``:
            settings among ``decentral.api.CHANGEABLE``; and True for the path of a
            plug-in or graph file that has changed, or for ``final_merge``, to train
            the merged model of a finished run. Points in % are of the new length;
            the past is not redone.
        watch: Called with every logged record.
        quiet: Show nothing: neither notes nor, in a terminal or a notebook, how far
            it is.
        trust: Digests of code that the folder names and that you have not run, as
            the refusal shows them; True for all of it.
        objects: Parts that were Python objects (a task, a schedule, ...) must be
            given again; what says where it runs (``engine="ray(workers=4)"``, or
            ``engine={"workers": 4}`` to change that alone) may be given anew.

    Raises:
        ConfigError: The folder is no run, another process writes into it, what makes
            the result is not what it was, or it names code of somebody else's.
        RunError: Every checkpoint is damaged.
    """
    given: dict[str, Any] = {**objects}
    if isinstance(path, Run):
        path, given = path.path, parts_of(path) | given
    run = restart(named_folder(path), change=change, trust=trust, **given)
    if isinstance(run, Path):
        return Run(run, given, trust=Trust.of(trust, given))
    return _train(run, given, watch, quiet)
