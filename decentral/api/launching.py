"""Runs that begin, and runs that go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from decentral.api.run import WHEREABOUTS, Run, run_config
from decentral.config import PARTS, Config, by_name, make_config, read_settings
from decentral.engines.base import EngineRun, given_up
from decentral.engines.choice import engine_of, refuse_ranks
from decentral.errors import ConfigError
from decentral.loop.setup import Setup
from decentral.run.checkpoint import has_checkpoint, newest_checkpoint
from decentral.run.folder import RunFolder

#: Called with every row of metrics that is logged.
Watch = Callable[[dict[str, Any]], None]


def launch(config: str | Path | None = None, *, watch: Watch | None = None, **settings: Any) -> Run:
    """Train one model on many nodes and return the finished run.

    ``config`` is a YAML file; ``settings`` are the same names as in YAML (``nodes=8``,
    ``communication="late(start=80%)"``) and win over it. Plug-ins may be given as text, mappings or
    Python objects: a function for a topology or schedule, a ``Task``, a function that builds a
    model. ``watch`` is called with every logged row.

    >>> run = launch(task="quadratic", nodes=4, steps=20, out="runs/doc")  # doctest: +SKIP
    >>> run.summary["counters"]["comm/rounds"]  # doctest: +SKIP
    20
    """
    layers = [read_settings(config)] if config is not None else []
    given = by_name({key: value for key, value in settings.items() if value is not None})
    return _train(start(make_config(*layers, given)), settings, watch)


def start(config: Config) -> EngineRun:
    """Prepare a run and open its folder; ``EngineRun.run`` trains it."""
    refuse_ranks(config)
    with ExitStack() as undo:
        run = undo.enter_context(closing(engine_of(config)(config)))
        if config.out:
            folder = undo.enter_context(RunFolder.create(config.out))
            _refuse_other(run, folder)
        else:
            folder = undo.enter_context(RunFolder.number(Path("runs"), _stem(run.setup)))
        run.begin(folder)
        undo.pop_all()
    return run


def _refuse_other(run: EngineRun, folder: RunFolder) -> None:
    """Refuse to begin where a run of another configuration has begun; ``auto`` is any value."""
    asked = {key for key, value in run.setup.config if value not in ("auto", "tune")}
    for key, (there, here) in folder.differences(run.settings).items():
        if key in asked - {*WHEREABOUTS, "out"}:
            raise ConfigError(
                f"{folder.path} holds a run of another configuration ({key}: {there} there, {here} "
                "here) that ended before its first checkpoint; choose another --out, or begin that "
                f"one again with `decentral resume {folder.path}`."
            )


def _train(run: EngineRun, given: dict[str, Any], watch: Watch | None) -> Run:
    done = Run(run.folder.path, by_name(given))
    for note in run.setup.notes:
        run.say(note)
    run.run(watch or (lambda row: None))
    done.report()
    return done


def _stem(setup: Setup) -> str:
    """Name a run after what runs are compared by: task, topology and communication."""
    talks = ("topology", "communication") if setup.conversation else ("algorithm",)
    names = [setup.parts[kind].name if kind in setup.parts else "own" for kind in ("task", *talks)]
    return "-".join(Path(name).stem for name in names)


def resume(path: str | Path, *, watch: Watch | None = None, **objects: Any) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is as if it never stopped.

    One that ended before its first checkpoint begins again. Parts that were Python objects (a task,
    a schedule, ...) must be given again; settings that say where it runs (``workers``, ``address``,
    ...) may be given anew. Raises RunError when every checkpoint is damaged, ConfigError when the
    folder is not a run, or while another process writes into it.
    """
    return _train(restart(path, **objects), objects, watch)


def begun(config: Config, path: Path) -> EngineRun:
    """Prepare a run in a folder of its own: from its newest checkpoint, or from the beginning.

    What a run has left there that ended before its first checkpoint is removed.
    """
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(path))
        if has_checkpoint(path):
            run = undo.enter_context(_going_on(folder, run_config(path)))
        else:
            folder.clear()
            config = config.model_copy(update={"out": str(path)})
            run = undo.enter_context(closing(engine_of(config)(config)))
            folder.prepare()
            run.begin(folder)
        undo.pop_all()
    return run


def restart(path: str | Path, **objects: Any) -> EngineRun:
    """Prepare a run from its newest checkpoint; ``EngineRun.run`` goes on with it."""
    if fixed := [key for key in objects if key not in {*WHEREABOUTS, *PARTS}]:
        raise ConfigError(
            f"{fixed[0]} cannot change when a run goes on; only where it runs can: "
            f"{', '.join(WHEREABOUTS)}."
        )
    config = run_config(path, **objects)
    refuse_ranks(config)
    _refuse_finished(Path(path))  # without touching its folder
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(Path(path)))
        run = undo.enter_context(_going_on(folder, config))
        undo.pop_all()
    return run


def _going_on(folder: RunFolder, config: Config) -> closing[EngineRun]:
    """Return a run that stands at a folder's newest checkpoint, or else at its beginning."""
    _refuse_finished(folder.path)
    saved = newest_checkpoint(folder.path) if has_checkpoint(folder.path) else None
    run = engine_of(config)(config)
    with given_up(run):
        if saved:
            run.go_on(folder, saved)
        else:
            folder.prepare()
            run.begin(folder)
    return closing(run)


def _refuse_finished(folder: Path) -> None:
    if (folder / "summary.json").exists():
        raise ConfigError(f"run {folder} is finished; `decentral report {folder}` shows it.")
