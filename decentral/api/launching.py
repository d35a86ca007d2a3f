"""Runs that begin, and runs that go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Unpack

from decentral.api.again import refuse_kept
from decentral.api.changing import (
    CHANGEABLE,
    UNCHANGED,
    Change,
    continue_config,
    newest,
    record_change,
    refuse_change,
    reopen,
    run_config,
    run_settings,
)
from decentral.api.display import display_of
from decentral.api.run import Run, parts_of
from decentral.config import (
    LISTS,
    PARTS,
    Config,
    make_config,
    read_settings,
    refuse_doubled,
    refuse_unknown,
    resolve_aliases,
)
from decentral.config.schema import Again, Changes, Settings
from decentral.engines.base import EngineRun, close_on_error
from decentral.engines.local import prepare_run
from decentral.engines.ranks import (
    Meeting,
    joins_ranks,
    refuse_changing_ranks,
    refuse_ranks,
)
from decentral.errors import ConfigError, shell_word
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup, resolve_config
from decentral.run.checkpoint import Saved, has_checkpoint
from decentral.run.digests import (
    WHEREABOUTS,
    differences,
    differences_text,
    refuse_changed,
)
from decentral.run.folder import RunFolder
from decentral.trust import Given, Trust, Untrusted, recorded

#: Called with every record of metrics that is logged.
Watch = Callable[[dict[str, Any]], None]
#: Values of settings that a run decides.
_OPEN = ("auto", "tune")


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


def begin(config: Config, *, resume: bool = False) -> EngineRun | Path:
    """Start a run, or go on with it where ``resume`` says so; return the folder of one
    that is finished.

    Among the ranks of a launcher rank 0 does this, and after a restart of the ranks
    goes on by itself; the others train their parts meanwhile.
    """
    ranks = joins_ranks(config)
    if ranks is not None:
        meeting = Meeting(ranks)
        if ranks.rank:
            return _take_part(config, meeting)
        if meeting.folder is not None and has_checkpoint(meeting.folder):
            resume, config = True, config.model_copy(update={"out": str(meeting.folder)})
    run = start_or_resume(config) if resume else start(config)
    if run is not None:
        return run
    folder = Path(str(config.out)).expanduser()
    if Meeting.open is not None:
        Meeting.open.tell_finished(folder)
        Meeting.open = None
    return folder


def _take_part(config: Config, meeting: Meeting) -> Path:
    from decentral.engines.torchrun import take_part

    try:
        return take_part(config, meeting)
    finally:
        Meeting.open = None


def start(config: Config) -> EngineRun:
    """Prepare a run and open its folder; ``EngineRun.run`` trains it."""
    refuse_ranks(config, together=True)
    with ExitStack() as undo:
        run = undo.enter_context(closing(prepare_run(config)))
        if config.out:
            folder = undo.enter_context(RunFolder.create(config.out))
            if folder.is_begun:
                _refuse_other(
                    folder.path, run_settings(folder.path), run.settings, config
                )
        else:
            folder = undo.enter_context(RunFolder.number(Path("runs"), _stem(run.setup)))
        run.begin(folder)
        # All went well: from here on the run holds folder and cluster, and lets
        # them go itself.
        undo.pop_all()
    return run


def start_or_resume(config: Config) -> EngineRun | None:
    """Prepare a run in its folder, or go on with the run of the same configuration
    there.

    What a program says that a queue may start again at any moment. Returns None
    where the run is finished. Raises ConfigError where the folder holds a run of
    another configuration.
    """
    if not config.out:
        raise ConfigError(
            "resume: say where the run is kept, by --out FOLDER (in Python out=...)."
        )
    refuse_ranks(config, together=True)
    path = Path(config.out).expanduser()
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(path))
        if not folder.is_begun:
            folder.refuse_remains()
            run = undo.enter_context(closing(prepare_run(config)))
            _stand(run, folder, None)
        else:
            finished = (path / "summary.json").exists()
            there = run_settings(path, goes_on=not finished)
            config = _apply_decisions(config, there)
            # Compared with the whole configuration, engine and all open choices
            # decided.
            if finished:
                _refuse_other(path, there, resolve_config(prepare(config)), config)
                if not (path / "report.html").exists():  # killed in its last moment
                    Run(path).report()
                return None
            if saved := newest(path):
                config = continue_config(config, there, saved)
            run = undo.enter_context(closing(prepare_run(config)))
            _refuse_other(path, there, run.settings, config)
            _stand(run, folder, saved)
        undo.pop_all()
    return run


def _apply_decisions(config: Config, there: Mapping[str, Any]) -> Config:
    """Replace what is left open by what the run in a folder has decided, here or
    elsewhere.
    """
    open_keys = [key for key in _left_open(config) if key not in WHEREABOUTS]
    # Where its interval is open, an evaluation may take fewer samples than asked for.
    fewer = (there.get("eval_samples") or 0) <= config.eval_samples
    if "eval_every" in open_keys and fewer:
        open_keys.append("eval_samples")
    return config.model_copy(
        update={key: there[key] for key in open_keys if there.get(key) is not None}
    )


def _left_open(config: Config) -> list[str]:
    """Return the settings that a run decides by itself."""
    return [key for key, value in config if isinstance(value, str) and value in _OPEN]


def _refuse_other(
    path: Path, there: Mapping[str, Any], here: Mapping[str, Any], config: Config
) -> None:
    """Refuse a run of another configuration than the one that a folder holds.

    Args:
        path: The folder.
        there: The settings that it keeps.
        here: Those of the run, every ``auto`` decided.
        config: Those that were asked for; what was left open is no difference.
    """
    left_open = _left_open(config)
    found = differences(there, {key: there.get(key) if key in left_open else value
                                for key, value in here.items()})  # fmt: skip
    if found:
        raise ConfigError(
            f"{path} holds a run of another configuration ({differences_text(found)}); choose "
            f"another --out, or go on with that one by `decentral resume {shell_word(path)}`."
        )


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


def _stem(setup: Setup) -> str:
    """Name a run after what runs are compared by: task, topology and communication."""
    communication = ("topology", "communication") if setup.planner else ("algorithm",)
    names = [
        setup.parts[kind].name if kind in setup.parts else "own"
        for kind in ("task", *communication)
    ]
    return "-".join(Path(name).stem for name in names)


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
    run = restart(path, change=change, trust=trust, **given)
    if isinstance(run, Path):
        return Run(run, given, trust=Trust.of(trust, given))
    return _train(run, given, watch, quiet)


def begin_run(config: Config, path: Path) -> EngineRun:
    """Prepare a run in a folder of its own: from its newest checkpoint, or from the
    beginning.

    What a run has left there that ended before its first checkpoint is removed.
    """
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(path))
        if has_checkpoint(path):
            # Parts that are objects of Python are in no folder.
            parts = {key: getattr(config, key) for key in (*PARTS, *LISTS)}
            known = Trust.of(False, dict(config))
            there = run_config(path, goes_on=True, trust=known, **parts)
            run = undo.enter_context(_going_on(folder, there))
        else:
            folder.clear()
            config = config.model_copy(update={"out": str(path)})
            run = undo.enter_context(closing(prepare_run(config)))
            _stand(run, folder, None)
        undo.pop_all()
    return run


def restart(
    path: str | Path,
    *,
    change: Changes | Mapping[str, Any] | None = None,
    trust: Given = False,
    **objects: Any,
) -> EngineRun | Path:
    """Prepare a run from its newest checkpoint; ``EngineRun.run`` goes on with it.

    Of the ranks of a launcher all but the first train here, and return its folder.

    Args:
        path: The run folder.
        change: What is to be otherwise, as for ``resume``.
        trust: What code may run, as for ``resume``.
        objects: Parts that were given from Python, and where it runs now.
    """
    for key, value in objects.items():
        part = key.partition(".")[0]
        refuse_unknown(part, value)
        if part not in WHEREABOUTS and key not in PARTS and key not in LISTS:
            raise ConfigError(
                f"{key} cannot change when a run goes on; only where it runs can: "
                f"{', '.join(WHEREABOUTS)}."
            )
    stored = run_settings(path, goes_on=True)
    anew = {k: v for k, v in objects.items() if k.partition(".")[0] not in WHEREABOUTS}
    refuse_kept(path, stored, anew, CHANGEABLE)
    wanted = Change.of(change)
    allowed = Trust.of(trust, objects, wanted.settings, wanted.files)
    try:
        config = run_config(
            path, goes_on=True, change=wanted.settings, trust=allowed, **objects
        )
    except Untrusted:
        # A file of one's own run that has changed since is told as that.
        saved, known = newest(Path(path)), recorded()
        files = saved.identity.get("files", {}) if saved else {}
        mine = {k: v for k, v in files.items() if v in known}
        refuse_changed(mine, wanted.files)
        raise
    refuse_ranks(config, together=True)
    if ranks := joins_ranks(config):
        if wanted:
            refuse_changing_ranks(ranks)
        if not (Path(path) / "summary.json").exists():
            meeting = Meeting(ranks)
            if ranks.rank:
                return _take_part(config, meeting)
    _refuse_finished(Path(path), wanted)  # without touching its folder
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(Path(path)))
        run = undo.enter_context(_going_on(folder, config, wanted))
        undo.pop_all()
    return run


def _going_on(
    folder: RunFolder, config: Config, change: Change = UNCHANGED
) -> closing[EngineRun]:
    """Return a run that stands at a folder's newest checkpoint, or else at its
    beginning.
    """
    _refuse_finished(folder.path, change)
    saved, there = newest(folder.path), run_settings(folder.path, goes_on=True)
    if saved:
        config = continue_config(config, there, saved, change)
    elif change:
        raise ConfigError(
            f"run {folder.path} has no checkpoint yet, so nothing is to be kept: launch it anew."
        )
    run = prepare_run(config)
    with close_on_error(run):
        if saved and change:
            refuse_change(folder, run.setup.config.steps, saved, there, change)
        _stand(run, folder, reopen(saved) if saved and change else saved)
        if saved and change:
            record_change(run, saved, there, change)
    return closing(run)


def _stand(run: EngineRun, folder: RunFolder, saved: Saved | None) -> None:
    """Let a run stand at a checkpoint of its folder, or else at its beginning."""
    if saved:
        run.go_on(folder, saved)
    else:
        folder.prepare()
        run.begin(folder)


def _refuse_finished(folder: Path, change: Change = UNCHANGED) -> None:
    if (folder / "summary.json").exists() and not change.is_longer:
        more = "; only with more steps does it go on: --change steps=N" if change else ""
        raise ConfigError(
            f"run {folder} is finished{more}; `decentral report {shell_word(folder)}` shows it."
        )
