"""The configuration of a run: as its folder keeps it, what may change when it goes on,
and what is written of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from decentral.api.again import from_python, leave_unread
from decentral.config import (
    LISTS,
    Config,
    Engine,
    make_config,
    merge_layers,
    read_file,
    resolve_aliases,
)
from decentral.config.schema import Changes
from decentral.engines.base import EngineRun
from decentral.errors import ConfigError, nearest
from decentral.loop.setup import write_in_list
from decentral.registry import PYTHON
from decentral.run.checkpoint import Saved, has_checkpoint, newest_checkpoint, relabel
from decentral.run.digests import (
    FORMAT,
    READ,
    differences,
    find_edited,
    find_moved,
    format_of,
    present,
    refuse_changed,
)
from decentral.run.folder import RunFolder
from decentral.schedules.progress import Past
from decentral.spec import names_file, spell
from decentral.trust import NOTHING, Trust, approve
from decentral.userfile import resolve_path

#: Settings that may change on the way: how long, at which rate, when to
#: communicate, in which batches, and on what.
CHANGEABLE = (
    "steps", "data", "learning_rate", "communication", "batch", "micro_batch", "threads", "device",
)  # fmt: skip
#: Where the data and a model's folder lie may change, too: they are the same at another
#: place.
MOVABLE = ("task.path", "task.test", "task.tokenizer", "model.path")
#: Names the final merge that was made: who names it trains the merged model
#: further.
FINAL_MERGE = "final_merge"
#: What a run's models are, and which data they have seen: who reads them must know
#: it.
MODELS = frozenset({"task", "model", "nodes", "split", "seed", "init", "dtype"})
#: What watches a run that trains: whoever reads its models loads none of it.
WATCHING = ("track", "callbacks")
#: What says how many samples were taken until a step.
_PACE = {"steps", "data", "batch"}


@dataclass(frozen=True)
class Change:
    """What the user wants changed of a run that goes on."""

    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: frozenset[str] = frozenset()
    final_merge: bool = False

    @staticmethod
    def of(given: Changes | Mapping[str, Any] | None) -> Change:
        """Read settings by name, and True for the path of a file or for
        ``final_merge``.

        Raises ConfigError for a setting that cannot change.
        """
        named: dict[str, Any] = {**(given or {})}
        merge = bool(named.pop(FINAL_MERGE, False))
        files = {key for key, value in named.items() if value is True and names_file(key)}
        settings = resolve_aliases(
            {key: value for key, value in named.items() if key not in files}
        )
        for key in settings:
            if key.partition(".")[0] not in CHANGEABLE and key not in MOVABLE:
                raise ConfigError(
                    f"{key} cannot change when a run goes on.{nearest(key, CHANGEABLE)} "
                    f"These can: {', '.join(CHANGEABLE)}, and files that it names."
                )
        return Change(settings, frozenset(map(resolve_path, files)), merge)

    @property
    def keys(self) -> set[str]:
        """The names of the settings, without what is inside of them."""
        named = self.settings.keys() - set(MOVABLE)  # what else a task is stays
        return {key.partition(".")[0] for key in named}

    @property
    def is_longer(self) -> bool:
        """Whether it says how long the run is."""
        return bool(self.keys & {"steps", "data"})

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return bool(self.settings or self.files or self.final_merge)


#: A run goes on as it was.
UNCHANGED = Change()


def newest(path: Path) -> Saved | None:
    """Return where a run goes on; None: at its beginning."""
    return newest_checkpoint(path) if has_checkpoint(path) else None


def continue_config(
    config: Config, there: Mapping[str, Any], saved: Saved, change: Change = UNCHANGED
) -> Config:
    """Return a configuration that goes on from a checkpoint, with what was done
    until then.

    Args:
        config: As it is now, the changes made.
        there: What the run folder keeps.
        saved: The checkpoint.
        change: What the user has named.

    Raises:
        ConfigError: Something that makes the result is not what it was, and was not
            named.
    """
    refuse_edited(saved, there, lambda key: key not in change.keys)
    refuse_changed(saved.identity.get("files", {}), change.files)
    # Before the first step nothing was taken, and there is no past to keep.
    if change.keys & _PACE and saved.step:
        counters = saved.counters
        return config.after(
            Past(saved.step, counters["samples"], counters["first_batch"])
        )
    past: Mapping[str, int] | None = saved.identity.get("past")
    return config.after(Past(**past) if past else None)


def refuse_edited(
    saved: Saved,
    there: Mapping[str, Any],
    matters: Callable[[str], bool] = MODELS.__contains__,
) -> None:
    """Raise ConfigError where settings of a run are not what they were at a
    checkpoint.

    Args:
        saved: The checkpoint.
        there: What the run folder keeps now.
        matters: Which settings must be the same: those that say what the models
            are, if not given.
    """
    found = find_edited(saved.identity.get("settings", {}), there)
    keys = [key for key in found if matters(key)]
    if not keys:
        return
    run = saved.path.parent.parent
    those = f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'}"
    free = [f"--change {key}=..." for key in keys if key in CHANGEABLE]
    remedy = f", or say {' '.join(free)}" if len(free) == len(keys) else ""
    raise ConfigError(
        f"{run / 'config.yaml'} was edited: {those} not as at step {saved.step}; "
        f"restore what was there{remedy}, or launch a new run."
    )


def is_stopped(saved: Saved) -> bool:
    """Whether a callback had stopped the run at a checkpoint."""
    return bool((saved.counters.get("callbacks") or {}).get("stopped"))


def reopen(saved: Saved) -> Saved:
    """Return a checkpoint whose run goes on, also where callbacks had stopped it: they
    begin anew.
    """
    if not is_stopped(saved):
        return saved
    return replace(saved, counters={**saved.counters, "callbacks": {}})


def refuse_change(
    folder: RunFolder, steps: int, saved: Saved, there: Mapping[str, Any], change: Change
) -> None:
    """Raise ConfigError where nothing is left to train, or the final merge was made
    and is not named; before anything of the run is touched.

    Args:
        folder: The folder of the run.
        steps: How many it has now.
        saved: The checkpoint.
        there: The settings until now.
        change: What the user has named.
    """
    if steps <= saved.step:
        raise ConfigError(
            f"run {folder.path}: {saved.step} steps are done, and with this change it has "
            f"{steps}; give more."
        )
    if not _ended(saved, there) or change.final_merge:
        return
    evaluated = folder.rows("metrics.jsonl", key="phase")
    if any(row["phase"] == "before_merge" for row in evaluated):
        raise ConfigError(
            f"run {folder.path}: the final merge was made at step {saved.step}, so that all "
            f"models are one; to train that one on, add --change {FINAL_MERGE}."
        )


def _ended(saved: Saved, there: Mapping[str, Any]) -> bool:
    return saved.step == there.get("steps") or is_stopped(saved)


def record_change(
    run: EngineRun, saved: Saved, there: Mapping[str, Any], change: Change
) -> None:
    """Write down what has changed of a run that stands at a checkpoint.

    An event says what was and what is; configuration and checkpoint become those of
    the run as it is now. What a finished run has left is kept under the step of its
    end.

    Args:
        run: The run, which stands at the checkpoint.
        saved: The checkpoint.
        there: The settings until now.
        change: What the user has named.
    """
    ended = _ended(saved, there)
    others = differences(there, run.settings)
    found: dict[str, Any] = {key: list(both) for key, both in others.items()}
    silent = [
        key for key in change.keys if not any(k.partition(".")[0] == key for k in found)
    ]
    found |= {key: [None, run.settings[key]] for key in silent}
    folder = run.folder
    folder.event("change", saved.step, settings=found, files=sorted(change.files))
    folder.write_config(run.settings, changed=True)
    # After the configuration: a kill in between leaves a checkpoint of the old
    # settings, which is refused by name, and no silent mixture.
    relabel(saved, {**folder.identity, "counters": reopen(saved).counters})
    if ended:
        # Evaluations of the old end are none of the run that now ends later.
        run.evaluations.clear()
    _set_aside(folder, saved.step)


def _set_aside(folder: RunFolder, step: int) -> None:
    """Keep what a run that was finished has left, under another name."""
    for name in ("merged.safetensors", "summary.json"):
        file = folder.path / name
        kept = file.with_stem(f"{file.stem}-{step:09d}")
        # Kept already: what is there now is of the later end, whose run was killed
        # before its checkpoint, and is written again.
        if file.exists() and not kept.exists():
            file.rename(kept)


# --- as its folder keeps it -------------------------------------------------------


def run_config(
    path: str | Path,
    *,
    goes_on: bool = False,
    models_only: bool = False,
    change: Mapping[str, Any] | None = None,
    trust: Trust = NOTHING,
    **objects: Any,
) -> Config:
    """Read a run folder's configuration, the one way from it to what runs.

    Args:
        path: The run folder.
        goes_on: Whether the run will be trained on: then all that its configuration
            says must be known, and its format the present one.
        models_only: Whether it is read for its models: then nothing is loaded that
            watches training.
        change: Settings that are no longer what they were.
        trust: What code the user allows it to name.
        objects: Parts that were given from Python, and where it runs now.

    Raises:
        ConfigError: It cannot be read so, or names code of somebody else's.
    """
    stored = run_settings(path, goes_on=goes_on)
    settings = stored | _elsewhere(stored, objects)
    if models_only:
        settings |= {key: () for key in WATCHING}
    if not goes_on:
        settings |= leave_unread(settings, objects)
    needed = [key for key, value in settings.items() if from_python(value)]
    if missing := [key for key in needed if objects.get(key) is None]:
        were = "was" if len(missing) == 1 and missing[0] not in LISTS else "were"
        again = ", ".join(f"{key}=..." for key in missing)
        raise ConfigError(
            f"run {path}: its {' and '.join(missing)} {were} given from Python; use "
            f"decentral.{'resume' if goes_on else 'Run'}({str(path)!r}, {again})."
        )
    settings |= {key: objects[key] for key in needed}
    changed = {key.partition(".")[0] for key in change or ()}
    if "data" in changed or (settings.get("data") is not None and "batch" in changed):
        settings["steps"] = None  # they follow from those
    said = {k: v for k, v in settings.items() if v is not None}
    source = Path(path) / "config.yaml"
    config = make_config(approve(said, source, trust, of_run=True), change or {})
    _check_lists(path, stored, config, goes_on)
    there, here = stored["engine"].get("wire", "same"), config.engine.wire
    if goes_on and there != here:
        raise ConfigError(
            f"engine.wire cannot change when a run goes on ({there} there, {here} here): "
            "it is part of the result."
        )
    return config


def _check_lists(
    path: str | Path, stored: Mapping[str, Any], config: Config, goes_on: bool
) -> None:
    """Refuse a list, some of which was given from Python, that is not the one of a run.

    Args:
        path: The run folder.
        stored: Its settings.
        config: The configuration as it is given again.
        goes_on: Whether the run will be trained on: else no list changes its models.
    """
    for key in LISTS if goes_on else ():
        now = [write_in_list(one) for one in getattr(config, key)]
        if PYTHON in (stored.get(key) or ()) and now != stored[key] and key != "faults":
            raise ConfigError(
                f"run {path}: its {key} were {spell(stored[key])}; give them again so, a "
                "function in the place of each python."
            )


def run_settings(path: str | Path, *, goes_on: bool = False) -> dict[str, Any]:
    """Read the settings that a run folder keeps, as the present format has them.

    Args:
        path: The run folder.
        goes_on: Whether the run will be trained on; a reader takes another format,
            and leaves out settings that a later version has added.
    """
    source = Path(path) / "config.yaml"
    if not source.exists():
        siblings = [p.parent.name for p in Path(path).parent.glob("*/config.yaml")]
        hint = nearest(Path(path).name, siblings)
        raise ConfigError(f"{path} is not a run folder: it has no config.yaml.{hint}")
    settings = present(read_file(source), _readable(path, goes_on))
    engine = settings.get("engine", {})
    strangers = [key for key in settings if key not in Config.model_fields]
    strangers += [f"engine.{key}" for key in engine if key not in Engine.model_fields]
    if strangers and goes_on:
        raise ConfigError(
            f"run folder {path} holds the setting {strangers[0]!r}, which this version of "
            "decentral does not know; its env.json names the version to use."
        )
    inside = {key: value for key, value in engine.items() if key in Engine.model_fields}
    known = {key: value for key, value in settings.items() if key in Config.model_fields}
    find_moved(Path(path), known)
    return known | {"engine": inside}


def _readable(path: str | Path, goes_on: bool) -> int:
    """Return the format of a run folder, if it can be read, or gone on with."""
    found = format_of(Path(path) / "config.yaml")
    name = "an unknown format" if found is None else f"format {found}"
    if goes_on and found in READ and found != FORMAT:
        raise ConfigError(
            f"run folder {path} is in {name}, which is read only; this version of decentral goes "
            f"on with runs of format {FORMAT}. Its env.json names the version to use."
        )
    if found is None or found not in READ:
        raise ConfigError(
            f"run folder {path} is in {name}; this version of decentral reads formats "
            f"{' and '.join(map(str, READ))}. Its env.json names the version to use."
        )
    return found


def _elsewhere(stored: Mapping[str, Any], objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given anew of where a run is: of its engine, above what was
    stored.
    """
    found = {key: objects[key] for key in ("faults",) if key in objects}
    given = {key: objects[key] for key in objects if key.partition(".")[0] == "engine"}
    if given:
        asked = merge_layers(given)["engine"]
        # without a name: several workers now
        local = stored["engine"].get("name") == "local"
        below = {"name": "auto"} if local else stored["engine"]
        found |= merge_layers({"engine": below}, {"engine": asked})
    return found
