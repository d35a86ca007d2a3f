"""The configuration of a run, as its folder keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decentral.config import LISTS, Config, Engine, make_config, merge_layers, read_file
from decentral.errors import ConfigError, nearest
from decentral.loop.setup import write_in_list
from decentral.registry import PYTHON
from decentral.run.digests import find_moved
from decentral.run.folder import FORMAT, READ, format_of, present
from decentral.spec import spell


def run_config(
    path: str | Path,
    *,
    goes_on: bool = False,
    change: Mapping[str, Any] | None = None,
    **objects: Any,
) -> Config:
    """Read a run folder's configuration.

    Args:
        path: The run folder.
        goes_on: Whether the run will be trained on: then all that its configuration
            says must be known, and its format the present one.
        change: Settings that are no longer what they were.
        objects: Parts that were given from Python, and where it runs now.
    """
    stored = run_settings(path, goes_on=goes_on)
    settings = stored | _elsewhere(stored, objects)
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
    config = make_config(
        {k: v for k, v in settings.items() if v is not None}, change or {}
    )
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


def from_python(value: Any) -> bool:
    """Whether a setting, or one of a list, was an object that no file holds."""
    return value == PYTHON or (isinstance(value, list) and PYTHON in value)


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
