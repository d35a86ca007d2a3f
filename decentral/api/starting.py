"""How a run begins, and how it goes on from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from decentral.api.again import refuse_kept
from decentral.api.changing import (
    CHANGEABLE,
    MOVABLE,
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
from decentral.api.run import Run
from decentral.config import LISTS, PARTS, Config, refuse_unknown
from decentral.config.schema import Changes
from decentral.engines.base import EngineRun, close_on_error
from decentral.engines.local import prepare_run
from decentral.engines.ranks import (
    Meeting,
    joins_ranks,
    refuse_changing_ranks,
    refuse_ranks,
)
from decentral.errors import ConfigError, shell_word
from decentral.limits import named_folder
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup, resolve_config
from decentral.run.checkpoint import Saved, has_checkpoint
from decentral.run.digests import (
    WHEREABOUTS,
    differences,
    differences_text,
    find_edited,
    refuse_changed,
)
from decentral.run.folder import RunFolder
from decentral.trust import Given, Trust, Untrusted, recorded

#: Values of settings that a run decides.
_OPEN = ("auto", "tune")


def begin(config: Config, *, resume: bool = False) -> EngineRun | Path:
    """Start a run, or go on with it where ``resume`` says so; return the folder of one
    that is finished.

    Among the ranks of a launcher rank 0 does this, and after a restart of the ranks
    goes on by itself; the others train their parts meanwhile.
    """
    ranks = joins_ranks(config)
    if ranks is not None:
        meeting = Meeting.open = Meeting(ranks)
        if ranks.rank:
            return _take_part(config, meeting)
        if meeting.folder is not None and has_checkpoint(meeting.folder):
            resume, config = True, config.model_copy(update={"out": str(meeting.folder)})
    run = start_or_resume(config) if resume else start(config)
    if run is not None:
        return run
    folder = named_folder(str(config.out))
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
    path = named_folder(config.out)
    if not RunFolder(path).is_begun:
        RunFolder(path).refuse_others()
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(path))
        if not folder.is_begun:
            folder.refuse_others()
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
    read = partial(run_config, path, goes_on=True, trust=allowed, **objects)
    try:
        config = read(change=wanted.settings)
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
            meeting = Meeting.open = Meeting(ranks)
            if ranks.rank:
                return _take_part(config, meeting)
    _refuse_finished(Path(path), wanted)  # without touching its folder
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(Path(path)))
        if _is_made(folder.path, wanted, config, read):
            wanted, config = UNCHANGED, read()
        run = undo.enter_context(_going_on(folder, config, wanted))
        undo.pop_all()
    return run


def _is_made(
    path: Path, change: Change, config: Config, read: Callable[[], Config]
) -> bool:
    """Whether all of a change was made before: the command that made it was killed on
    its way, and is given again.

    Args:
        path: The run folder.
        change: What the user has named.
        config: The run with the change.
        read: Reads the run as its folder keeps it.
    """
    saved = newest(path)
    if (
        saved is None
        or change.files
        or not change.keys
        or {*change.settings} & {*MOVABLE}
    ):
        return False
    # Until the checkpoint is one of the changed run, the change is to be made again.
    stated = saved.identity.get("settings", {})
    if find_edited(stated, run_settings(path, goes_on=True)):
        return False
    stands, finished = read(), (path / "summary.json").exists()
    same = all(getattr(config, key) == getattr(stands, key) for key in change.keys)
    return same and not finished


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


def _stem(setup: Setup) -> str:
    """Name a run after what runs are compared by: task, topology and communication."""
    communication = ("topology", "communication") if setup.planner else ("algorithm",)
    names = [
        setup.parts[kind].name if kind in setup.parts else "own"
        for kind in ("task", *communication)
    ]
    return "-".join(Path(name).stem for name in names)
